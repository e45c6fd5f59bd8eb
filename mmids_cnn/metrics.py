"""Metrics as sums and counts, merged by addition and divided once; labels to unit vectors and back."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Num

from mmids_cnn.losses import cross_entropy


class Sums(flax.struct.PyTreeNode):
    """What has been summed over some examples; two of them merge by addition of their fields."""

    loss: Float[Array, ""]  # nats
    correct: Int32[Array, ""]
    count: Int32[Array, ""]

    @classmethod
    def zero(cls) -> "Sums":
        """Sums over no example."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0))

    def __add__(self, other: "Sums") -> "Sums":
        """Sums over the examples of both."""
        return Sums(self.loss + other.loss, self.correct + other.correct, self.count + other.count)

    def means(self, split: str) -> dict[str, float | int]:
        """Mean loss, accuracy (a fraction in [0, 1]) and count, under `<split>/<name>`."""
        count = int(self.count)
        return {
            f"{split}/loss": float(self.loss) / max(count, 1),
            f"{split}/accuracy": int(self.correct) / max(count, 1),
            f"{split}/count": count,
        }


def sums(logits: Float[Array, "n classes"], labels: Int32[Array, " n"], valid: Bool[Array, " n"]) -> Sums:
    """Loss, correct answers and count over the examples where `valid` is true."""
    correct = (jnp.argmax(logits, axis=-1) == labels) & valid
    loss = jnp.where(valid, cross_entropy(logits, labels), 0)
    return Sums(loss.sum(), correct.sum(dtype=jnp.int32), valid.sum(dtype=jnp.int32))


def confusion(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts of examples by true class (rows) and predicted class (columns)."""
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def one_hot(labels: Any, classes: Sequence[Any] | int) -> Float[np.ndarray, "*n classes"]:
    """Unit vectors of one label or of many.

    Args:
      labels: a label, or an array of them.
      classes: the label set in order (`range(10)`, `["cat", "dog"]`), or its size for 0, 1, 2, ...

    Returns:
      float32, one row a label: 1 where the class is the label's, else 0.

    Raises:
      ValueError: a label is not in the set.

    >>> one_hot(2, 4).tolist()
    [0.0, 0.0, 1.0, 0.0]
    >>> one_hot(["dog", "cat"], ["cat", "dog"]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    names = np.arange(classes) if isinstance(classes, int) else np.asarray(classes)
    vectors = np.asarray(labels)[..., None] == names
    if not np.all(vectors.sum(-1) == 1):
        raise ValueError(f"labels: expected members of {names.tolist()}, got {labels!r}")
    return vectors.astype(np.float32)


def one_cold(vectors: Num[np.ndarray, "*n classes"] | Any, classes: Sequence[Any] | int) -> Any:
    """The label of the largest entry of each vector, the inverse of `one_hot`; ties go to the first.

    Args:
      vectors: unit vectors, probabilities or logits, one row an example.
      classes: the label set, as for `one_hot`.

    Returns:
      A label, or an array of them.

    Raises:
      ValueError: the vectors are not as long as the label set.

    >>> one_cold(one_hot(5, 10), 10)
    5
    >>> one_cold([[0.1, 0.9], [0.8, 0.2]], ["cat", "dog"]).tolist()
    ['dog', 'cat']
    """
    names = np.arange(classes) if isinstance(classes, int) else np.asarray(classes)
    entries = np.asarray(vectors)
    if entries.shape[-1:] != names.shape:
        raise ValueError(f"vectors: expected length {len(names)}, got shape {entries.shape}")
    labels = names[entries.argmax(-1)]
    return labels.item() if labels.ndim == 0 else labels
