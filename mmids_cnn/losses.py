"""Loss functions: one value an example, so that callers weigh and sum them as they need."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32


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
    hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    even = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return hard + label_smoothing * (even - hard)
