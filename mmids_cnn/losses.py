"""Loss functions: one value an example, so that callers weigh and sum them as they need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32

from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted


def cross_entropy(
    logits: Float[Array, "*n classes"],
    labels: Int32[Array, "*n"],
    label_smoothing: float | Float[Array, ""] = 0.0,
) -> Float[Array, "*n"]:
    """Softmax cross-entropy taken from logits, in nats.

    Args:
      logits: unnormalised log-probabilities.
      labels: the class of each example, 0 to classes - 1.
      label_smoothing: mass s spread evenly: the target is (1 - s) one_hot + s / classes
        (Szegedy et al., arXiv 1512.00567, section 7).

    Returns:
      A loss an example.
    """
    # Softmax does not see a shift; the differences that follow keep their digits where all logits are large.
    logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    # Chosen by comparing: the gradient of an index is a scatter, for which a GPU sorts.
    own = jnp.where(labels[..., None] == jnp.arange(logits.shape[-1]), logits, 0).sum(-1)
    hard = jax.nn.logsumexp(logits, axis=-1) - own
    even = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return hard + label_smoothing * (even - hard)


def squared_error(
    logits: Float[Array, "*n classes"],
    labels: Int32[Array, "*n"],
    label_smoothing: float | Float[Array, ""] = 0.0,
) -> Float[Array, "*n"]:
    """Squared distance of the probabilities from the target, summed over the classes: 0 to 2.

    The arguments are those of `cross_entropy`. Source: Brier, Monthly Weather Review 78 (1950), as a score.
    """
    target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return jnp.sum((jax.nn.softmax(logits) - target) ** 2, axis=-1)


Loss = Callable[[Float[Array, "*n classes"], Int32[Array, "*n"], Any], Float[Array, "*n"]]
"""From logits, labels and traced hyperparameters to one value an example."""

LOSSES: dict[str, Loss] = {
    "cross_entropy": lambda logits, labels, h: cross_entropy(logits, labels, h.label_smoothing),
    "squared_error": lambda logits, labels, h: squared_error(logits, labels, h.label_smoothing),
}


def each(
    name: str, logits: Float[Array, "n classes"], labels: Int32[Array, " n"], h: Any
) -> Float[Array, " n"]:
    """The loss of a name in `config.train.loss`, one value an example.

    Raises:
      ConfigError: it is one of your own that cannot be imported, raises, or gives something else.
    """
    function, expected = dotted.look_up(LOSSES, name, "train.loss"), "one float for each example"
    found = dotted.array(function, "train.loss", name, expected, labels.shape, logits, labels, h)
    if not jnp.issubdtype(found.dtype, jnp.floating):  # its gradient would be zero
        raise ConfigError(
            f"config.train.loss: expected {expected}, got {found.dtype} from {name!r}; correct it"
        )
    return found
