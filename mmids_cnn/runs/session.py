"""One process's work on a run: from its start or a restored checkpoint to its result or an interruption."""

import contextlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import data, loop, metrics, train
from mmids_cnn.console import signals
from mmids_cnn.console.terminal import Terminal, counted
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import provenance, resume, tensorboard
from mmids_cnn.runs.clock import Clock
from mmids_cnn.runs.progress import Progress
from mmids_cnn.storage import checkpoints, digests, files

Rows = list[dict[str, Any]]


def run(
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    workdir: Path,
    terminal: Terminal,
    clock: Clock,
) -> dict[str, Any]:
    """Trains to the end in a run folder that this process has locked, and returns the result.

    Raises:
      FaultError: a file could not be written; the last checkpoint is whole.
      InterruptedRunError: a signal asked to stop; what there was to save is saved.
      NonFiniteError: training broke down; the last checkpoint is finite.
    """
    with files.faults(f"writing to {workdir}"):
        resumed = resume.restore(experiment, dataset, workdir, terminal.say)
        clock.before = resumed.seconds or clock.before
        _record(experiment, dataset, workdir, terminal, resumed)
        rows = list(resumed.rows)
        keep = experiment.checkpoint.keep
        saver = checkpoints.Saver(workdir / run_folder.CHECKPOINTS, keep, resumed.best)
        with contextlib.closing(saver), contextlib.closing(terminal):
            last = _train(experiment, dataset, workdir, terminal, clock, resumed, rows, saver)
        result = _result(experiment, last, rows, clock)
        run_folder.write_result(workdir, result)
    if experiment.report:
        _report(dataset, workdir, terminal)
    terminal.say(run_folder.summary(result, workdir))
    return result


def _report(dataset: data.Dataset, workdir: Path, terminal: Terminal) -> None:
    """Writes the page of a run where that can be; the run is finished, whatever becomes of it."""
    if importlib.util.find_spec("matplotlib") is None or signals.requested():
        return
    try:
        from mmids_cnn.runs import report  # matplotlib

        report.write(workdir, dataset, terminal.say)
    except Exception as error:
        terminal.say(
            f"note: the run is finished, but its {run_folder.REPORT} was not written: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        )


def _record(
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    workdir: Path,
    terminal: Terminal,
    resumed: resume.Resumed,
) -> None:
    """Writes what is run and with what; the result and the page of a shorter run go."""
    now = provenance.collect(experiment, dataset)
    path = workdir / run_folder.PROVENANCE
    damaged = run_folder.damaged(workdir)
    run_folder.say_damaged(workdir, damaged, terminal.say)
    if resumed.state is not None:
        intact = path.exists() and run_folder.PROVENANCE not in damaged
        before = {**(files.read_sealed(path) if intact else now), "sources": resumed.sources}
        changed = provenance.changes(before, now)
        if changed:
            terminal.say(
                f"note: {'; '.join(changed)} since this run began; its bits may differ from an unbroken run's"
            )
    (workdir / run_folder.RESULT).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the page is no reason to fail
        (workdir / run_folder.REPORT).unlink(missing_ok=True)
    files.write_sealed(workdir / run_folder.CONFIG, config_lib.to_dict(run_folder.anywhere(experiment)))
    files.write_sealed(path, now)


def _train(
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    workdir: Path,
    terminal: Terminal,
    clock: Clock,
    resumed: resume.Resumed,
    rows: Rows,
    saver: checkpoints.Saver,
) -> loop.Point:
    """Trains, logs, saves and shows until the end or a signal; `rows` grows."""
    meta = {
        "config": config_lib.to_dict(experiment),
        "data": dataset.fingerprint,
        "sources": provenance.sources(config_lib.sources(experiment)),
        "rows": rows,
    }
    per_epoch = train.steps_per_epoch(len(dataset.splits["train"].labels), experiment.batch_size)
    every = experiment.checkpoint
    saving = loop.Cadence(every.every_epochs, every.every_seconds, per_epoch, resumed.step)
    progress = Progress(experiment, dataset, terminal, clock)
    log = tensorboard.Log(workdir, experiment, rows) if experiment.tensorboard else None

    def save(point: loop.Point) -> None:
        seconds = clock.read(point.seconds, point.images)
        score = _score(rows[-1]) if rows and rows[-1]["step"] == point.step else -math.inf
        saver.save(point.step, train.to_saved(point.state), {**meta, "seconds": seconds}, score)
        saving.done(point.step)

    stop = signals.requested
    points = loop.fit(
        experiment,
        dataset,
        resumed.state,
        scored=resumed.scored,
        history=[resumed.rows],
        stop=lambda: stop() is not None,
    )
    with open(workdir / run_folder.METRICS, "a") as file:
        for point in points:
            for row in point.rows:
                line = _line(row, clock.read(point.seconds, point.images)["total"])
                rows.append(json.loads(line))
                file.write(line + "\n")
                file.flush()
                progress.row(rows[-1])
                if log:
                    log.row(rows[-1])
            progress.point(point)
            number = stop()
            # A signal may have broken off the scoring at a step that was saved; its row is there only now.
            late = bool(point.rows) and point.step == saving.step
            due = late or saving.due(point.step) or (number and point.step != saving.step)
            if point.step and due:
                save(point)
            if number:
                saver.wait()
                raise signals.InterruptedRunError(
                    number, f"after step {point.step:,}; give the same command again to go on from there"
                )
            signals.defer()
    if point.step != saving.step:
        save(point)
    saver.wait()
    if log:
        log.errors(point.state, dataset, experiment.eval.batch_size)
        log.close()
    if point.epoch < experiment.num_epochs:
        terminal.say(
            f"stopped after {point.epoch:g} epochs: the last {experiment.train.patience} brought no better "
            "validation accuracy"
        )
    skipped = int(point.state.nonfinite)
    if skipped:
        terminal.say(f"skipped {counted(skipped, 'step')}, which would have made what is not finite")
    return point


def _line(row: loop.Row, seconds: float) -> str:
    """A line of `metrics.jsonl`; numbers that are not finite are null in it."""
    head = {"step": row["step"], "epoch": row["epoch"], "seconds": seconds}
    return files.to_json(head | {name: value for name, value in row.items() if name not in head})


def _result(experiment: config_lib.Experiment, point: loop.Point, rows: Rows, clock: Clock) -> dict[str, Any]:
    seconds = clock.read(point.seconds, point.images)
    images = seconds.pop("images")
    scores = {k: v for k, v in rows[-1].items() if "/" in k and not k.startswith("train/")}
    return {
        "step": point.step,
        "epoch": point.epoch,
        **({"stopped": True} if point.epoch < experiment.num_epochs else {}),
        **scores,
        "weights": config_lib.weights(experiment),
        **{f"seconds/{name}": value for name, value in seconds.items()},
        "images_per_second": images / seconds["train"],
        "fingerprint": digests.fingerprint(train.trained(point.state)),
    }


def _score(row: dict[str, Any]) -> float:
    """What makes a checkpoint the best: validation accuracy, else training loss; never the test split."""
    name = "validation/accuracy" if "validation/accuracy" in row else "train/loss"
    value = row.get(name)
    return -math.inf if value is None else metrics.metric(name).better(value)
