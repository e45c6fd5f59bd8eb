"""Cadences, and where `fit` stops; what it trains is tested with the feeds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import data, loop, train
from mmids_cnn.errors import NonFiniteError
from tests.support.suite import Vary

TINY = {"channels": (2,)}


def test_cadence_by_epochs_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    cadence = loop.Cadence(every_epochs=2, every_seconds=30, steps_per_epoch=10)
    assert [step for step in range(1, 50) if cadence.due(step)] == [20, 40]
    cadence.done(20)
    assert not cadence.due(20) and cadence.due(40)
    now += 29.9
    assert not cadence.due(25)
    now += 0.2
    assert cadence.due(25)
    cadence.done(25)
    assert not cadence.due(26)


def test_cadence_that_is_never_due() -> None:
    cadence = loop.Cadence(every_epochs=0, every_seconds=0, steps_per_epoch=10)
    assert not any(cadence.due(step) for step in range(50))


@pytest.mark.parametrize(("step", "where"), [(0, r"step 1 \(epoch 1\)"), (12, r"step 13 \(epoch 2\)")])
def test_fit_stops_where_training_diverges(vary: Vary, small: data.Dataset, step: int, where: str) -> None:
    experiment = vary(num_epochs=3, optimizer={"learning_rate": 1e30}, model=TINY)
    state = train.init_state(experiment, small).replace(step=jnp.int32(step))
    with pytest.raises(NonFiniteError, match=where):
        list(loop.fit(experiment, small, state))


def test_fit_goes_on_where_it_is_told_to_skip(vary: Vary, small: data.Dataset) -> None:
    settings: dict[str, Any] = {"optimizer": {"learning_rate": 1e30}, "train": {"on_nonfinite": "skip"}}
    experiment = vary(num_epochs=2, model=TINY, **settings)
    *_, last = loop.fit(experiment, small)
    assert (last.step, last.state.step, last.state.nonfinite) == (16, 16, 15)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.state.params))


@pytest.mark.soak
def test_population_goes_on_from_the_step_of_those_that_did_not_diverge(
    vary: Vary, small: data.Dataset
) -> None:
    experiment = vary(num_epochs=2, model=TINY)
    state = train.init_population([experiment] * 2, small).replace(step=jnp.int32([3, 9]))
    assert next(loop.fit(experiment, small, state, scored=True)).step == 9
