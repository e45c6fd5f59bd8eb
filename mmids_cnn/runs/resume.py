"""Where a run goes on: the newest whole checkpoint, and the rows of metrics an unbroken run would have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmids_cnn import config as config_lib
from mmids_cnn import data, loop, train
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import provenance
from mmids_cnn.storage import checkpoints


class Resumed(NamedTuple):
    """What is left of a run by the processes before; as it stands, nothing.

    Attributes:
      state: to go on from; None to start anew.
      step: steps that were taken when it was saved, -1 for a new run.
      rows: of metrics, up to that step.
      scored: whether the last of them is of that step.
      seconds: what `Clock.read` gave then.
      best: the best score so far, and its step.
      sources: of what is not this package's, as provenance has them.
    """

    state: train.TrainState | None = None
    step: int = -1
    rows: tuple[dict[str, Any], ...] = ()
    scored: bool = False
    seconds: dict[str, float] | None = None
    best: checkpoints.Best = checkpoints.Best()
    sources: dict[str, Any] | None = None


def restore(
    experiment: config_lib.Experiment, dataset: data.Dataset, workdir: Path, say: Callable[[str], None]
) -> Resumed:
    """What an earlier process left in a run folder; `metrics.jsonl` is made to end where this one begins.

    Args:
      experiment: what is to be trained.
      dataset: the data that are at hand.
      workdir: the run folder, locked by this process.
      say: told of each step back, and of each file that is damaged.

    Raises:
      RunError: the run was begun with another configuration, other data or other settings of JAX, or no
        checkpoint is whole.
    """
    folder = workdir / run_folder.CHECKPOINTS
    restored = checkpoints.newest(folder, say)
    if restored is None:
        return _start(workdir, say)
    meta = restored.meta
    run_folder.require_same(workdir, config_lib.resolve(meta["config"], recorded=True), experiment)
    if meta["data"] != dataset.fingerprint:
        raise RunError(
            f"{workdir}: expected the data this run began with (fingerprint {meta['data'][:16]}), found "
            f"{dataset.fingerprint[:16]}; put that data back, or name another --workdir"
        )
    provenance.require_settings(workdir)
    state = train.from_saved(train.init_state(experiment, dataset), restored.tree)
    say(f"going on from step {restored.step:,} of {workdir}")
    if run_folder.metrics(workdir)[: len(meta["rows"])] != meta["rows"]:
        say(f"{workdir / run_folder.METRICS} was changed or damaged: writing it anew")
    checkpoints.set_aside(folder, restored.step)
    per_epoch = train.steps_per_epoch(len(dataset.splits["train"].labels), experiment.batch_size)
    ended = meta["config"]["num_epochs"] * per_epoch
    rows = tuple(row for row in meta["rows"] if _has_row(experiment, per_epoch, row["step"], ended))
    run_folder.write_metrics(workdir, rows)
    scored = bool(rows) and rows[-1]["step"] == restored.step
    best = checkpoints.Best(**meta["best"])
    return Resumed(state, restored.step, rows, scored, meta["seconds"], best, meta.get("sources", {}))


def _start(workdir: Path, say: Callable[[str], None]) -> Resumed:
    if (workdir / run_folder.RESULT).exists():
        raise RunError(
            f"{workdir}: expected the checkpoints of a run that was finished, found none; put them back, or "
            "start again with another --workdir"
        )
    if run_folder.metrics(workdir):
        say(f"{workdir}: no checkpoint is there yet; starting from the beginning")
    run_folder.write_metrics(workdir, [])
    return Resumed()


def _has_row(experiment: config_lib.Experiment, per_epoch: int, step: int, ended: int) -> bool:
    """Whether an unbroken run would have a row at a step, where one was scored that ended after `ended`.

    Not so where a shorter run ended that now goes on, unless its end is due to be scored anyway.
    """
    ended_there = step == ended != experiment.num_epochs * per_epoch
    cadence = loop.Cadence(experiment.eval.every_epochs, experiment.eval.every_seconds, per_epoch)
    return not ended_there or cadence.by_epochs(step) or experiment.eval.every_seconds > 0
