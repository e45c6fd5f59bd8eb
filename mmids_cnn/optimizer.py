"""Optimizers and schedules whose numbers are traced, so that one program trains a population of settings."""

from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32

from mmids_cnn import config as config_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted, schema

if TYPE_CHECKING:
    Hyperparams = Any
else:
    Hyperparams = namedtuple("Hyperparams", [name.rpartition(".")[2] for name in config_lib.TRACED])
"""The traced leaves of an experiment, by the last part of their names: float32 scalars, the uint32 seed."""


def hyperparams(experiment: config_lib.Experiment) -> Hyperparams:
    """The traced numbers of an experiment."""
    values = schema.flatten(experiment)
    return Hyperparams(*(_traced(values[name]) for name in config_lib.TRACED))


def abstract() -> Hyperparams:
    """The shapes and dtypes of `hyperparams`."""
    kinds = {int: jnp.uint32, float: jnp.float32}
    return Hyperparams(
        *(jax.ShapeDtypeStruct((), kinds[config_lib.LEAVES[name].hint]) for name in config_lib.TRACED)
    )


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


def _kernels(params: Any) -> Any:
    """Which parameters decay: biases, and scales of norms, have one axis and do not."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


Optimizer = Callable[[Any, Float[Array, ""]], optax.GradientTransformation]
"""From `Hyperparams` and the learning rate of a step to an optax optimizer whose state depends on neither."""

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": lambda h, rate: optax.adam(rate, b1=h.b1, b2=h.b2, eps=h.eps),
    "adamw": lambda h, rate: optax.adamw(
        rate, b1=h.b1, b2=h.b2, eps=h.eps, weight_decay=h.weight_decay, mask=_kernels
    ),
    "lion": lambda h, rate: optax.lion(rate, b1=h.b1, b2=h.b2, weight_decay=h.weight_decay, mask=_kernels),
    "sgd": lambda h, rate: optax.sgd(rate, momentum=h.b1),
}


def learning_rate(
    schedule: str, total_steps: int, h: Hyperparams, step: Int32[Array, ""]
) -> Float[Array, ""]:
    """Learning rate at a step, 0 to total_steps - 1.

    Every schedule rises linearly over the first `warmup_fraction * total_steps` steps, then follows its row
    of `SCHEDULES`.

    Raises:
      ConfigError: the schedule is one of your own that raises, or gives something else than a number.
    """
    warmup = h.warmup_fraction * total_steps
    rise = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    passed = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0, 1)
    function = dotted.look_up(SCHEDULES, schedule, "optimizer.schedule")
    fall = dotted.array(function, "optimizer.schedule", schedule, "a factor of the learning rate", (), passed)
    return h.learning_rate * rise * fall


def make(name: str, h: Hyperparams, rate: Float[Array, ""]) -> optax.GradientTransformation:
    """The optax optimizer for one step at learning rate `rate`; its state does not depend on `h`.

    Raises:
      ConfigError: it is one of your own that raises, or makes no optax optimizer.
    """
    function, expected = dotted.look_up(OPTIMIZERS, name, _LEAF), "a function that returns an optax optimizer"
    made = dotted.call(function, _LEAF, name, expected, h, rate)
    if not isinstance(made, optax.GradientTransformation):
        raise dotted.wrong(_LEAF, name, expected, made)
    return made


def init(name: str, h: Hyperparams, params: Any) -> optax.OptState:
    """The optimizer's state before the first step.

    Raises:
      ConfigError: see `make`.
    """
    return dotted.call(make(name, h, h.learning_rate).init, _LEAF, name, _OF_PARAMETERS, params)


def update(
    name: str, h: Hyperparams, rate: Float[Array, ""], gradient: Any, state: optax.OptState, params: Any
) -> tuple[Any, optax.OptState]:
    """Parameters and the optimizer's state after a step at learning rate `rate`.

    Raises:
      ConfigError: see `make`; or it is one of your own that changes the form of its state or of parameters.
    """

    def step() -> tuple[Any, optax.OptState]:
        updates, after = make(name, h, rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), after

    after = dotted.call(step, _LEAF, name, _OF_PARAMETERS)
    if _form(after) != _form((params, state)):
        raise ConfigError(
            f"config.{_LEAF}: expected {_OF_PARAMETERS}, got {name!r}, which changes the shape or dtype of "
            "its state or of parameters; correct it"
        )
    return after


def clip(gradient: Any, norm: Float[Array, ""]) -> Any:
    """A gradient cut to a norm, taken over all its numbers, if it is longer."""
    length = optax.tree.norm(gradient)
    factor = lax.cond(
        jnp.isfinite(length),
        lambda gradient: jnp.minimum(1, norm / jnp.maximum(length, jnp.finfo(jnp.float32).tiny)),
        lambda gradient: norm / _LARGE / optax.tree.norm(jax.tree.map(lambda x: x / _LARGE, gradient)),
        gradient,
    )
    return jax.tree.map(lambda x: x * factor, gradient)


_LARGE = 2.0**80  # the square of a number above 2e19 is infinite in float32

_LEAF, _OF_PARAMETERS = "optimizer.name", "an optimizer of these parameters"


def _form(tree: Any) -> Any:
    return jax.tree.structure(tree), [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]
