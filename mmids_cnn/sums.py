"""Metrics summed over examples on the device: merged by addition, divided by their count once."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from mmids_cnn import metrics
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted


class Sums(flax.struct.PyTreeNode):
    """What has been summed over some examples; two of them merge by addition.

    Attributes:
      totals: the sum of each metric by its label, float32, or int32 where its values are true or false.
      count: how many examples.
    """

    totals: dict[str, Array]
    count: Int32[Array, ""]

    def __add__(self, other: "Sums") -> "Sums":
        """Sums over the examples of both."""
        totals = {name: total + other.totals[name] for name, total in self.totals.items()}
        return Sums(totals, self.count + other.count)

    def means(self, split: str) -> dict[str, float | int]:
        """The mean of each metric (an accuracy is a fraction in [0, 1]) and the count, `<split>/<name>`."""
        count = int(self.count)
        row: dict[str, float | int] = {
            f"{split}/{name}": (int(total) if total.dtype == jnp.int32 else float(total)) / max(count, 1)
            for name, total in sorted(self.totals.items(), key=lambda item: _rank(item[0]))
        }
        return row | {f"{split}/count": count}


def _rank(name: str) -> tuple[int, str]:
    return (metrics.ALWAYS.index(name) if name in metrics.ALWAYS else len(metrics.ALWAYS), name)


def zero(names: Sequence[str], classes: int) -> Sums:
    """Sums over no example of the metrics of some names, for logits of so many classes."""
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), _shapes(tuple(names), classes))


@functools.lru_cache(maxsize=64)
def _shapes(names: tuple[str, ...], classes: int) -> Any:
    logits = jax.ShapeDtypeStruct((1, classes), jnp.float32)
    label, valid = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.bool_)
    return jax.eval_shape(lambda *batch: add_up(names, *batch), logits, label, valid)


def add_up(
    names: Sequence[str],
    logits: Float[Array, "n classes"],
    labels: Int32[Array, " n"],
    valid: Bool[Array, " n"],
) -> Sums:
    """The sums of the metrics of some names over the examples where `valid` is true.

    Raises:
      ConfigError: a metric of your own raises, or gives something else than one value an example.
    """
    totals = {}
    for name in names:
        function, expected = metrics.metric(name).each, "a metric with one value for each example"
        each = dotted.array(function, "eval.metrics", name, expected, labels.shape, logits, labels)
        if jnp.issubdtype(each.dtype, jnp.complexfloating):
            raise ConfigError(
                f"config.eval.metrics: expected {expected}, real or true or false, got {each.dtype} from "
                f"{name!r}; correct it"
            )
        if each.dtype == jnp.bool_:
            totals[metrics.label(name)] = (each & valid).sum(dtype=jnp.int32)
        else:
            totals[metrics.label(name)] = jnp.where(valid, each, 0).astype(jnp.float32).sum()
    return Sums(totals, valid.sum(dtype=jnp.int32))
