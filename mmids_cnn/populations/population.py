"""Trains one population: several experiments that share a program, through the loop that single runs use.

A `Job` and its `Outcome` are plain data, so that any process, here or on another machine, can do the work.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmids_cnn import config as config_lib
from mmids_cnn import data as data_lib
from mmids_cnn import loop, train
from mmids_cnn.devices import device
from mmids_cnn.settings import schema
from mmids_cnn.storage import digests

State = dict[str, np.ndarray]
"""The arrays of a training state by their path, `params/Dense_0/bias`."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a population is.

    Attributes:
      step: steps taken.
      rows: for each member its rows of metrics, as `loop.Row`, up to where it diverged.
      diverged: for each member the step whose loss or gradient was not finite, None if there was none.
      state: the members' stacked states, to go on from.
    """

    step: int = 0
    rows: tuple[tuple[loop.Row, ...], ...] = ()
    diverged: tuple[int | None, ...] = ()
    state: State | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A population to train.

    Attributes:
      name: what the job is called.
      experiments: one a member; they differ in the leaves of `config.TRACED` alone.
      epochs: how far to train; no more than the experiments' `num_epochs`, which schedules span.
      split: what is scored beside the training split: 'validation' or 'test'.
      progress: where to go on from.
    """

    name: str
    experiments: tuple[config_lib.Experiment, ...]
    epochs: int
    split: str
    progress: Progress = Progress()

    @property
    def keeps_states(self) -> bool:
        """Whether states are of use afterwards: to train on, or as the networks that a sweep ends with."""
        return self.epochs < self.experiments[0].num_epochs or self.split == "test"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A population trained, or a part of the way.

    Attributes:
      progress: how far it is, without a state where none was asked for.
      fingerprints: for each member a SHA-256 over its parameters, as in a run's `result.json`.
      seconds: spent by this process, by phase.
      device: what it was trained on.
      data: the fingerprint of the data.
    """

    progress: Progress
    fingerprints: tuple[str, ...]
    seconds: dict[str, float]
    device: str
    data: str


class Part(NamedTuple):
    """A population in training.

    Attributes:
      point: where the loop is; its state is reused by the next piece.
      rows, diverged: as in `Progress`.
      finished: whether the job is done.
      data: the fingerprint of the data.
    """

    point: loop.Point
    rows: tuple[tuple[loop.Row, ...], ...]
    diverged: tuple[int | None, ...]
    finished: bool
    data: str

    def outcome(self, *, with_state: bool) -> Outcome:
        """A copy that can be kept or sent."""
        state = jax.device_get(self.point.state)
        members = [jax.tree.map(lambda x, i=i: x[i], train.trained(state)) for i in range(len(self.rows))]
        saved = (
            {path: np.array(x) for path, x in digests.leaves(train.to_saved(state))} if with_state else None
        )
        facts = device.found()
        return Outcome(
            Progress(self.point.step, self.rows, self.diverged, saved),
            tuple(map(digests.fingerprint, members)),
            dataclasses.asdict(self.point.seconds),
            f"{facts['platform']} ({facts['kind']})",
            self.data,
        )


def shared(experiment: config_lib.Experiment, dataset: data_lib.Dataset) -> Hashable:
    """What members of one population have in common; raises `ConfigError` if the network does not fit."""
    leaves = schema.flatten(experiment).items()
    fixed = tuple((name, value) for name, value in leaves if name not in config_lib.TRACED)
    return fixed, train.program(experiment, dataset)


@functools.lru_cache(maxsize=2)
def load(config: config_lib.Dataset, split: str) -> data_lib.Dataset:
    """The data of a population: the training split, the one it is scored on and any to stop by, no other."""
    dataset = data_lib.load(config)
    names = {"train", split} | (dataset.splits.keys() & {"validation"})
    return dataclasses.replace(dataset, splits={n: x for n, x in dataset.splits.items() if n in names})


def run(job: Job, stop: Callable[[], bool] = lambda: False) -> Iterator[Part]:
    """Trains a population.

    Args:
      job: what to train.
      stop: asked while scoring; True breaks the scoring off.

    Yields:
      A part at the start, about twice a second, and after each evaluation; the last one is finished. Whoever
      iterates may stop at any point, and go on later from that part's progress.
    """
    dataset = load(job.experiments[0].dataset, job.split)
    state = train.init_population(job.experiments, dataset)
    rows = [list(one) for one in job.progress.rows or [()] * len(job.experiments)]
    if job.progress.state is not None:
        state = train.from_saved(state, job.progress.state)
    scored = job.progress.step == 0 or _scored(rows, job.progress.step)
    begun = functools.partial(loop.fit, scored=scored, step=job.progress.step, history=rows, stop=stop)
    for point in begun(job.experiments[0], dataset, state):
        diverged = _diverged(point.state)
        for one, row, at in zip(rows, point.rows, diverged, strict=bool(point.rows)):
            one.extend([row] if at is None else [])
        there = point.epoch >= job.epochs and _scored(rows, point.step)
        finished = there or None not in diverged
        yield Part(point, tuple(map(tuple, rows)), diverged, finished, dataset.fingerprint)
        if finished:
            return


def _scored(rows: Sequence[Sequence[loop.Row]], step: int) -> bool:
    return any(one and one[-1]["step"] == step for one in rows)


def _diverged(state: train.TrainState) -> tuple[int | None, ...]:
    if state.program.skip_nonfinite:
        return (None,) * len(state.step)
    pairs: Any = zip(np.asarray(state.nonfinite), np.asarray(state.step), strict=True)
    return tuple(int(step) if count else None for count, step in pairs)
