"""Optimizers and schedules whose numbers are traced, so that one program trains a population of settings."""

from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from mmids_cnn import config as config_lib
from mmids_cnn import dotted, schema

if TYPE_CHECKING:
    Hyperparams = Any
else:
    Hyperparams = namedtuple("Hyperparams", [name.rpartition(".")[2] for name in config_lib.TRACED])
"""The traced leaves of an experiment, by the last part of their names: float32 scalars, the uint32 seed."""


def hyperparams(experiment: config_lib.Experiment) -> Hyperparams:
    """The traced numbers of an experiment."""
    values = schema.flatten(experiment)
    return Hyperparams(*(_traced(values[name]) for name in config_lib.TRACED))


def _traced(value: float | int) -> Array:
    return jnp.uint32(value) if isinstance(value, int) else jnp.float32(value)


Fall = Callable[[Float[Array, ""]], Float[Array, ""]]
"""From the part of training that has passed since the warm-up, 0 to 1, to a factor of the learning rate."""

SCHEDULES: dict[str, Fall] = {
    "constant": lambda passed: jnp.float32(1),
    # Half a cosine wave to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5, one cycle).
    "cosine": lambda passed: (1 + jnp.cos(jnp.pi * passed)) / 2,
    # A line to 0 (Smith & Topin, arXiv 1708.07120, in its linear form).
    "one_cycle": lambda passed: 1 - passed,
}

Optimizer = Callable[[Any, Float[Array, ""]], optax.GradientTransformation]
"""From `Hyperparams` and the learning rate of a step to an optax optimizer whose state depends on neither."""

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": lambda h, rate: optax.adam(rate, b1=h.b1, b2=h.b2, eps=h.eps),
    "adamw": lambda h, rate: optax.adamw(rate, b1=h.b1, b2=h.b2, eps=h.eps, weight_decay=h.weight_decay),
    "lion": lambda h, rate: optax.lion(rate, b1=h.b1, b2=h.b2, weight_decay=h.weight_decay),
    "sgd": lambda h, rate: optax.sgd(rate, momentum=h.b1),
}


def learning_rate(
    schedule: str, total_steps: int, h: Hyperparams, step: Int32[Array, ""]
) -> Float[Array, ""]:
    """Learning rate at a step, 0 to total_steps - 1.

    Every schedule rises linearly over the first `warmup_fraction * total_steps` steps, then follows its row
    of `SCHEDULES`.
    """
    warmup = h.warmup_fraction * total_steps
    rise = jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1), 1.0)
    passed = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0, 1)
    fall = dotted.look_up(SCHEDULES, schedule, "optimizer.schedule")(passed)
    return h.learning_rate * jnp.minimum(rise, 1) * fall


def make(name: str, h: Hyperparams, rate: Float[Array, ""]) -> optax.GradientTransformation:
    """The optax optimizer for one step at learning rate `rate`; its state does not depend on `h`.

    Raises:
      ConfigError: it is one of your own, and makes no optax optimizer.
    """
    made = dotted.look_up(OPTIMIZERS, name, "optimizer.name")(h, rate)
    if not isinstance(made, optax.GradientTransformation):
        raise dotted.wrong("optimizer.name", name, "a function that returns an optax optimizer", made)
    return made
