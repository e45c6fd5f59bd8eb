"""`fit`: strings the steps of training together, evaluates, and hands over control twice a second."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, score, sums, train
from mmids_cnn.devices import hosts, mesh
from mmids_cnn.errors import NonFiniteError

_begin_epoch = jax.jit(train.begin_epoch, donate_argnames="state")
_PIECE_SECONDS = 0.5  # how long training keeps control before progress, signals and cadences are seen to


@dataclasses.dataclass
class Seconds:
    """Wall-clock seconds by what they were spent on."""

    data: float = 0.0
    compile: float = 0.0
    train: float = 0.0
    eval: float = 0.0


LIVE = "live"
"""What columns of the weights themselves are called (`test_live/accuracy`), where their average is scored."""

Row = dict[str, float | int]
"""Metrics by name, after `step` steps."""


class Point(NamedTuple):
    """Where training is when `fit` hands over control.

    Attributes:
      state: after `step` steps. The next piece reuses its memory: copy what is to be kept.
      step: steps taken since the run began.
      epoch: the same in epochs, with a fraction.
      rows: if the splits were just scored, a row of metrics for each member, hence one for a single model;
        else none.
      seconds: spent so far by this call of `fit`.
      images: training images that one member has seen so far in this call of `fit`.
    """

    state: train.TrainState
    step: int
    epoch: float
    rows: tuple[Row, ...]
    seconds: Seconds
    images: int


def exhausted(rows: Sequence[Mapping[str, float | int | None]], patience: int) -> bool:
    """Whether training has stopped: by its rows, no validation accuracy of so many epochs was a better one.

    Args:
      rows: of metrics, one after each epoch among them.
      patience: how many epochs; 0 never stops.
    """
    ends = [row for row in rows if row["epoch"] and not float(row["epoch"] or 0) % 1]
    values = [-math.inf if (x := row["validation/accuracy"]) is None else x for row in ends if patience]
    return bool(values) and len(values) - 1 - values.index(max(values)) >= patience


class Cadence:
    """When something is due that is done every N epochs, and at most once in S seconds in between.

    Args:
      every_epochs: N, 0 for not by epochs.
      every_seconds: S, wall clock, 0 for not by time.
      steps_per_epoch: steps that an epoch has.
      step: at which it was done last, -1 for never.
    """

    def __init__(self, every_epochs: int, every_seconds: float, steps_per_epoch: int, step: int = -1) -> None:
        self._every_epochs, self._every_seconds = every_epochs, every_seconds
        self._steps_per_epoch = steps_per_epoch
        self.step, self._last = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether it is to be done now, after `step` steps."""
        if step == self.step:
            return False
        return self.by_epochs(step) or (
            self._every_seconds > 0 and time.monotonic() - self._last >= self._every_seconds
        )

    def by_epochs(self, step: int) -> bool:
        """Whether `step` is the end of an epoch at which it is due, whatever the clock says."""
        epoch, inside = divmod(step, self._steps_per_epoch)
        return self._every_epochs > 0 and not inside and epoch % self._every_epochs == 0

    def done(self, step: int) -> None:
        """It was done just now, after `step` steps."""
        self.step, self._last = step, time.monotonic()


def fit(
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    state: train.TrainState | None = None,
    *,
    scored: bool = False,
    step: int | None = None,
    history: Sequence[Sequence[Row]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Point]:
    """Trains until `num_epochs` are complete, or `train.patience` is exhausted.

    Training goes on from `state`, also from the middle of an epoch: pieces that follow one another give the
    same bits as one run. Whoever iterates may stop at any point.

    Args:
      experiment: the configuration.
      dataset: the data.
      state: where to go on from; None starts anew, scoring the untrained network first. May be a population,
        whose members differ from `experiment` in traced numbers alone. Used up: its memory is reused.
      scored: the splits have been scored at `state` already.
      step: steps that were taken until `state`, of members that stopped fewer; None as the state has it.
      history: for each member the rows of metrics up to `state`, by which training is stopped.
      stop: asked while scoring; True breaks the scoring off, and the point after it has no rows.

    Yields:
      A point at the start, after each piece and after each evaluation; the last one is at the end.

    Raises:
      ConfigError: the network does not fit the data.
      NonFiniteError: a loss, parameter or moment was not finite, and `train.on_nonfinite` is 'stop'. In a
        population such a member stays as it was, and the others go on; so does one that stopped, whose rows
        then repeat.
    """
    seconds = Seconds()
    with _timed(seconds, "data"):
        batches = feed.make(experiment, dataset.splits["train"])
        held = {name: split for name, split in dataset.splits.items() if name != "train"}
    with _timed(seconds, "compile"):
        state = train.init_state(experiment, dataset) if state is None else state
        program = state.program
        hosts.tell(())
        state = mesh.place(hosts.same(state), mesh.replicated(state.devices))
        scorer = score.Scorer(
            program.network, program.metrics, held, experiment.eval.batch_size, state.population
        )
        begin_epoch = _begin_epoch.lower(state).compile()
        batches.compile(state)
        scorer.compile(state.variables)
    per_epoch, num_examples = batches.steps_per_epoch, len(dataset.splits["train"].labels)
    cadence = Cadence(experiment.eval.every_epochs, experiment.eval.every_seconds, per_epoch)
    step = int(np.asarray(state.step).max()) if step is None else step
    end, images, rate, piece = experiment.num_epochs * per_epoch, 0, 0.0, 1
    seen = [list(one) for one in history] or [[] for _ in range(state.population or 1)]
    while True:
        rows: tuple[Row, ...] = ()
        if not scored and (step in (0, end) or cadence.due(step)):
            with _timed(seconds, "eval"):
                rows = _rows(step, step / per_epoch, state, scorer, stop)
            cadence.done(step)
        scored = False
        for one, row in zip(seen, rows, strict=bool(rows)):
            one.append(row)
        over = [False]
        if program.stops:
            over = [exhausted(one, experiment.train.patience) for one in seen]
            flags = np.asarray(over if state.population else over[0], np.int32)
            state = state.replace(stopped=mesh.place(flags, mesh.replicated(state.devices)))
        yield Point(state, step, step / per_epoch, rows, dataclasses.replace(seconds), images)
        if step >= end or (state.population is None and over[0]):
            return
        epoch, first = divmod(step, per_epoch)
        # Twice the last piece at most: a rate measured too high costs no more than two of them.
        piece = min(2 * piece, max(1, round(rate * _PIECE_SECONDS)))
        count = min(piece, per_epoch - first)
        started = time.perf_counter()
        with _timed(seconds, "train"):
            hosts.tell((epoch, first, count))
            if first == 0:
                state = begin_epoch(state)
            state = jax.block_until_ready(batches.advance(state, epoch, first, count))
        rate = count / (time.perf_counter() - started)
        images += min((first + count) * experiment.batch_size, num_examples) - (first * experiment.batch_size)
        step += count
        _require_finite(state, per_epoch)


def follow(experiment: config_lib.Experiment, dataset: data.Dataset) -> hosts.End:
    """Takes the steps that `fit` takes in process 0, with it; returns how that ended.

    Args:
      experiment: the configuration, that of process 0.
      dataset: the data, those of process 0.

    Raises:
      ConfigError: the network does not fit the data.
    """
    order = hosts.hear()
    if isinstance(order, hosts.End):  # before it began
        return order
    batches = feed.make(experiment, dataset.splits["train"])
    state = train.init_state(experiment, dataset)
    state = mesh.place(hosts.same(state), mesh.replicated(state.devices))
    begin_epoch = _begin_epoch.lower(state).compile()
    batches.compile(state)
    while not isinstance(order := hosts.hear(), hosts.End):
        epoch, first, count = order
        if first == 0:
            state = begin_epoch(state)
        state = jax.block_until_ready(batches.advance(state, epoch, first, count))
    return order


def _rows(
    step: int, epoch: float, state: train.TrainState, scorer: score.Scorer, stop: Callable[[], bool]
) -> tuple[Row, ...]:
    scores = scorer(state.scored, stop)
    if scores is None:
        return ()
    if state.program.averages:
        live = scorer(state.variables, stop)
        if live is None:
            return ()
        scores |= {f"{split}_{LIVE}": sums for split, sums in live.items()}
    splits = ("train", *scores)
    scores = jax.device_get({"train": state.sums, **scores})

    def one(scores: dict[str, sums.Sums]) -> Row:
        row: Row = {"step": step, "epoch": epoch}
        for split in splits:
            if scores[split].count:
                row |= scores[split].means(split)
        return row

    if state.population is None:
        return (one(scores),)
    return tuple(one(jax.tree.map(lambda leaf, i=i: leaf[i], scores)) for i in range(state.population))


def _require_finite(state: train.TrainState, per_epoch: int) -> None:
    if state.population or state.program.skip_nonfinite or not int(state.nonfinite):
        return
    step = int(state.step)
    raise NonFiniteError(
        f"training: expected finite losses and parameters, found others after step {step} (epoch "
        f"{step // per_epoch + 1}); lower --config.optimizer.learning_rate, or set "
        "--config.train.on_nonfinite=skip to leave such steps out"
    )


@contextlib.contextmanager
def _timed(seconds: Seconds, phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    setattr(seconds, phase, getattr(seconds, phase) + time.perf_counter() - started)
