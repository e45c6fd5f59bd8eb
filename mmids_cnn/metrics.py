"""Metrics: one value an example, which way is better, how it is shown. Importing this imports no JAX.

A metric is summed over examples on the device (`sums`) and divided by their count once. To add one, add a row
to `METRICS`; to use one of your own, name it in `config.eval.metrics` as 'module:attribute', a `Metric`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mmids_cnn.settings import dotted

ALWAYS = ("loss", "accuracy")  # every run is scored by these, and compared by them


class Metric(NamedTuple):
    """A row of the table.

    Attributes:
      each: from float32 logits `[n, classes]` and int32 labels `[n]` to one value an example, float32 in the
        metric's unit, or bool, whose sum is exact.
      higher_is_better: which of two values is the better one.
      percent: shown in percent, as a share of the examples; else as a plain number.
    """

    each: Callable[[Any, Any], Any]
    higher_is_better: bool
    percent: bool = False

    def show(self, value: float | None) -> str:
        """A value as people read it: `98.97 %`, `2.3026`, `0.03121`."""
        if value is None:
            return "not finite"
        if self.percent:
            return f"{100 * value:.2f} %"
        return f"{value:.4f}" if value >= 0.1 else f"{value:.4g}"

    def show_mean(
        self, mean: float, sd: float | None, n: int, interval: Sequence[float] | None = None
    ) -> str:
        """A mean over n seeds as people read it: `98.97 ± 0.06 % (n = 5, 95 % interval 98.92 to 99.01)`."""
        if sd is None:
            return f"{self.show(mean)} (n = 1)"
        scale, unit, digits = (100, " %", 2) if self.percent else (1, "", 4)
        low_high = " to ".join(f"{scale * end:.{digits}f}" for end in interval or ())
        between = f", 95 % interval {low_high}" if low_high else ""
        return f"{scale * mean:.{digits}f} ± {scale * sd:.{digits}f}{unit} (n = {n}{between})"

    def better(self, value: float) -> float:
        """The value with the sign that makes the larger the better."""
        return value if self.higher_is_better else -value


def _cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross-entropy in nats, without smoothing, whatever the loss that is trained on."""
    from mmids_cnn import losses  # JAX: whoever has logits has it already

    return losses.cross_entropy(logits, labels)


def _correct(logits: Any, labels: Any) -> Any:
    """Whether the largest logit is the label's, the first one where several are largest."""
    return logits.argmax(-1) == labels


def _brier(logits: Any, labels: Any) -> Any:
    """Brier score, the squared distance of the probabilities from the truth, 0 to 2 (Brier 1950)."""
    from mmids_cnn import losses

    return losses.squared_error(logits, labels)


METRICS = {
    "loss": Metric(_cross_entropy, higher_is_better=False),
    "accuracy": Metric(_correct, higher_is_better=True, percent=True),
    "brier": Metric(_brier, higher_is_better=False),
}


def metric(name: str) -> Metric:
    """The metric of a name in `config.eval.metrics`, or of a column `<split>/<name>` of results.

    Raises:
      ConfigError: it is one of your own that cannot be imported, or is no `Metric`.
    """
    name = name.rpartition("/")[2]
    found = dotted.look_up(METRICS, name, "eval.metrics")
    if not isinstance(found, Metric):
        raise dotted.wrong("eval.metrics", name, "a metrics.Metric", found)
    return found


def by_label(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of some names by what they are called in results.

    Raises:
      ConfigError: see `metric`.
    """
    return {label(name): metric(name) for name in names}


def label(name: str) -> str:
    """What a metric is called in results: its key, or the attribute of a dotted name."""
    return name.partition(":")[2] or name


def valid(names: Sequence[str]) -> bool:
    """Whether `config.eval.metrics` may be so: known or dotted names that differ, and those of `ALWAYS`.

    None is called `count`, which in results is the number of examples.
    """
    known = all(name in METRICS or dotted.is_dotted(name) for name in names)
    labels = {*map(label, names), "count"}
    return known and len(labels) == len(names) + 1 and set(ALWAYS) <= set(names)


def confusion(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts of examples by true class (rows) and predicted class (columns)."""
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)
