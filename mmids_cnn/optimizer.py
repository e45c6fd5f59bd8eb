"""Optimizers whose hyperparameters are traced, so that one program trains a population of settings."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, UInt32

from mmids_cnn import config as config_lib


class Hyperparams(NamedTuple):
    """The numbers that change neither a shape nor the program: float32 scalars, and the seed."""

    learning_rate: Float[Array, ""]
    b1: Float[Array, ""]
    b2: Float[Array, ""]
    eps: Float[Array, ""]
    weight_decay: Float[Array, ""]
    warmup_fraction: Float[Array, ""]
    label_smoothing: Float[Array, ""]
    seed: UInt32[Array, ""]


def hyperparams(experiment: config_lib.Experiment) -> Hyperparams:
    """The traced numbers of an experiment."""
    return Hyperparams(
        learning_rate=jnp.float32(experiment.optimizer.learning_rate),
        b1=jnp.float32(experiment.optimizer.b1),
        b2=jnp.float32(experiment.optimizer.b2),
        eps=jnp.float32(experiment.optimizer.eps),
        weight_decay=jnp.float32(experiment.optimizer.weight_decay),
        warmup_fraction=jnp.float32(experiment.optimizer.warmup_fraction),
        label_smoothing=jnp.float32(experiment.train.label_smoothing),
        seed=jnp.uint32(experiment.seed),
    )


def learning_rate(
    schedule: str, total_steps: int, h: Hyperparams, step: Int32[Array, ""]
) -> Float[Array, ""]:
    """Learning rate at a step, 0 to total_steps - 1.

    Every schedule rises linearly over the first `warmup_fraction * total_steps` steps. Then 'constant' stays;
    'cosine' falls as half a cosine wave to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5, one cycle);
    'one_cycle' falls linearly to 0 (Smith & Topin, arXiv 1708.07120, in its linear form).
    """
    warmup = h.warmup_fraction * total_steps
    rise = jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1), 1.0)
    passed = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0, 1)
    fall = {
        "constant": jnp.float32(1),
        "cosine": (1 + jnp.cos(jnp.pi * passed)) / 2,
        "one_cycle": 1 - passed,
    }[schedule]
    return h.learning_rate * jnp.minimum(rise, 1) * fall


def make(name: str, h: Hyperparams, rate: Float[Array, ""]) -> optax.GradientTransformation:
    """The optax optimizer for one step at learning rate `rate`; its state does not depend on `h`."""
    if name == "adam":
        return optax.adam(rate, b1=h.b1, b2=h.b2, eps=h.eps)
    if name == "adamw":
        return optax.adamw(rate, b1=h.b1, b2=h.b2, eps=h.eps, weight_decay=h.weight_decay)
    return optax.sgd(rate, momentum=h.b1)
