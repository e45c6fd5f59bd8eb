"""Several networks, or several views of an image, as one classifier: by the mean of their probabilities."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, UInt8

from mmids_cnn import score, sums
from mmids_cnn.devices import compilation
from mmids_cnn.runs.trained import Trained

VIEWS = {
    1: ((0, 0),),
    5: ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)),
    9: tuple((down, right) for down in (0, 1, -1) for right in (0, 1, -1)),
}
"""For so many views of an image how far it is moved, in pixels down and to the right."""


def logits(
    member: Trained, images: UInt8[np.ndarray, "n height width channels"], batch_size: int, views: int
) -> Float[np.ndarray, "n classes"]:
    """Logits of a network; for several views of each image, of the mean of their probabilities.

    Args:
      member: the network.
      images: what it is shown.
      batch_size: images at a time.
      views: a key of `VIEWS`. What is moved in from outside is 0.
    """
    return mean(
        [
            score.logits(member.network, member.variables, _moved(images, *view), batch_size)
            for view in VIEWS[views]
        ]
    )


def mean(logits: Sequence[Float[np.ndarray, "n classes"]]) -> Float[np.ndarray, "n classes"]:
    """Logits of the mean of the probabilities that several have; those of one as they are."""
    if len(logits) == 1:
        return logits[0]
    each = scipy.special.log_softmax(np.stack(logits).astype(np.float64), axis=-1)
    return (scipy.special.logsumexp(each, axis=0) - np.log(len(logits))).astype(np.float32)


def scores(names: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """How good logits are: `count`, and each metric by its label, the means over all examples.

    Args:
      names: as in `config.eval.metrics`.
      logits: `[n, classes]`.
      labels: `[n]`.
    """
    means = _add_up()(tuple(names), logits, labels, np.ones(len(labels), bool)).means("")
    return {name.removeprefix("/"): value for name, value in means.items()}


@functools.cache
def _add_up() -> Any:
    return compilation.run_once(sums.add_up, static_argnames="names")


def _moved(images: np.ndarray, down: int, right: int) -> np.ndarray:
    if not (down or right):
        return images
    height, width = images.shape[1:3]
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return framed[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
