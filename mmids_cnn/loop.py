"""`fit`: strings the steps of training together, evaluates, and hands over control twice a second."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, metrics, score, train
from mmids_cnn.devices import mesh
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


Row = dict[str, float | int]
"""Metrics by name, after `step` steps."""


class Point(NamedTuple):
    """Where training is when `fit` hands over control.

    Attributes:
      state: after `step` steps. The next piece reuses its memory: copy what is to be kept.
      step: steps taken since the run began.
      epoch: the same in epochs, with a fraction.
      row: if the splits were just scored, a row of metrics, a list of rows for a population; else None.
      seconds: spent so far by this call of `fit`.
      images: training images seen so far by this call of `fit`.
    """

    state: train.TrainState
    step: int
    epoch: float
    row: Row | list[Row] | None
    seconds: Seconds
    images: int


def fit(
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    state: train.TrainState | None = None,
    *,
    scored: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Point]:
    """Trains until `num_epochs` are complete.

    Training goes on from `state`, also from the middle of an epoch: pieces that follow one another give the
    same bits as one run. Whoever iterates may stop at any point.

    Args:
      experiment: the configuration.
      dataset: the data.
      state: where to go on from; None starts anew, scoring the untrained network first. May be a population,
        whose members differ from `experiment` in traced numbers alone. Used up: its memory is reused.
      scored: the splits have been scored at `state` already.
      stop: asked while scoring; True breaks the scoring off, and the point after it has no row.

    Yields:
      A point at the start, after each piece and after each evaluation; the last one is at the end.

    Raises:
      ConfigError: the network does not fit the data.
      NonFiniteError: a loss, parameter or moment was not finite, and `train.on_nonfinite` is 'stop'. In a
        population such a member stays as it was, and the others go on.
    """
    seconds = Seconds()
    with _timed(seconds, "data"):
        batches = feed.make(experiment, dataset.splits["train"])
        held = {name: split for name, split in dataset.splits.items() if name != "train"}
    with _timed(seconds, "compile"):
        state = train.init_state(experiment, dataset) if state is None else state
        state = jax.device_put(state, mesh.replicated(state.recipe.devices))
        scorer = score.Scorer(state.recipe.network, held, experiment.eval.batch_size, state.members)
        begin_epoch = _begin_epoch.lower(state).compile()
        batches.compile(state)
        scorer.compile(state.params)
    per_epoch, num_examples = batches.steps_per_epoch, len(dataset.splits["train"].labels)
    cadence = _Cadence(experiment.eval, per_epoch, experiment.num_epochs * per_epoch)
    step, images, rate, piece = int(state.step.max()), 0, 0.0, 1
    while True:
        row = None
        if not scored and cadence.due(step):
            with _timed(seconds, "eval"):
                row = _row(step, step / per_epoch, state, scorer, stop)
            cadence.last = time.monotonic()
        scored = False
        yield Point(state, step, step / per_epoch, row, dataclasses.replace(seconds), images)
        if step >= cadence.last_step:
            return
        epoch, first = divmod(step, per_epoch)
        # Twice the last piece at most: a rate measured too high costs no more than two of them.
        piece = min(2 * piece, max(1, round(rate * _PIECE_SECONDS)))
        count = min(piece, per_epoch - first)
        started = time.perf_counter()
        with _timed(seconds, "train"):
            if first == 0:
                state = begin_epoch(state)
            state = jax.block_until_ready(batches.advance(state, epoch, first, count))
        rate = count / (time.perf_counter() - started)
        images += min((first + count) * experiment.batch_size, num_examples) - (first * experiment.batch_size)
        step += count
        _require_finite(state, per_epoch)


@dataclasses.dataclass
class _Cadence:
    config: config_lib.Eval
    per_epoch: int
    last_step: int
    last: float = dataclasses.field(default_factory=time.monotonic)

    def due(self, step: int) -> bool:
        """Whether to score now: before the first step, at the end, and as often as configured."""
        if step in (0, self.last_step):
            return True
        epoch, inside = divmod(step, self.per_epoch)
        every_epochs, every_seconds = self.config.every_epochs, self.config.every_seconds
        if every_epochs and not inside and epoch % every_epochs == 0:
            return True
        return bool(every_seconds) and time.monotonic() - self.last >= every_seconds


def _row(
    step: int, epoch: float, state: train.TrainState, scorer: score.Scorer, stop: Callable[[], bool]
) -> Row | list[Row] | None:
    scores = scorer(state.params, stop)
    if scores is None:
        return None
    splits = ("train", *scores)
    scores = jax.device_get({"train": state.sums, **scores})

    def one(scores: dict[str, metrics.Sums]) -> Row:
        row: Row = {"step": step, "epoch": epoch}
        for split in splits:
            if scores[split].count:
                row |= scores[split].means(split)
        return row

    if state.members is None:
        return one(scores)
    return [one(jax.tree.map(lambda leaf, i=i: leaf[i], scores)) for i in range(state.members)]


def _require_finite(state: train.TrainState, per_epoch: int) -> None:
    if state.members or state.recipe.skip_nonfinite or not int(state.nonfinite):
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
