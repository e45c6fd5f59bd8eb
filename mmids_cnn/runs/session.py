"""One process's work on a run: from its start or a restored checkpoint to its result or an interruption."""

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

from flax import serialization

from mmids_cnn import config, data, loop, train
from mmids_cnn.storage import checkpoints
from mmids_cnn.storage import files
from mmids_cnn.console import signals
from mmids_cnn.runs import provenance
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.errors import RunError
from mmids_cnn.console.terminal import Terminal


class Session:
    """Trains in a run folder that this process has locked."""

    def __init__(
        self,
        experiment: config.Experiment,
        dataset: data.Dataset,
        workdir: Path,
        terminal: Terminal,
        started: float,
        data_seconds: float,
    ) -> None:
        self._experiment, self._dataset = experiment, dataset
        self._workdir, self._terminal = workdir, terminal
        self._started, self._data_seconds = started, data_seconds
        self._per_epoch = train.steps_per_epoch(len(dataset.splits["train"].labels), experiment.batch_size)
        self._before = dict.fromkeys(("data", "compile", "train", "eval", "total", "images"), 0.0)
        self._saved_step = -1
        self._last_save = time.monotonic()
        self._rows: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns the result.

        Raises:
          FaultError: a file could not be written; the last checkpoint is whole.
          InterruptedRunError: a signal asked to stop; what there was to save is saved.
          NonFiniteError: training broke down; the last checkpoint is finite.
        """
        with files.faults(f"writing to {self._workdir}"):
            saved = checkpoints.Checkpoints(
                self._workdir / run_folder.CHECKPOINTS, self._experiment.checkpoint.keep
            )
            try:
                state, scored = self._restore(saved)
                self._record()
                result = self._train(saved, state, scored)
            finally:
                self._terminal.close()
                saved.close()
            files.write_json(self._workdir / run_folder.RESULT, result)
        self._terminal.say(run_folder.summary(result, self._workdir))
        return result

    def _record(self) -> None:
        """Writes what is run and with what; the result of a shorter run is no longer one."""
        now = provenance.collect(self._experiment, self._dataset)
        path = self._workdir / run_folder.PROVENANCE
        damaged = run_folder.damaged(self._workdir)
        for name in damaged:
            self._terminal.say(
                f"{self._workdir / name}: expected what was written, found a damaged file; writing it anew"
            )
        old = self._saved_step >= 0 and path.exists() and run_folder.PROVENANCE not in damaged
        before = files.read_json(path) if old else now
        changed = provenance.changes(before, now)
        if changed:
            self._terminal.say(
                f"note: {'; '.join(changed)} since this run began; its bits may differ from an unbroken run's"
            )
        (self._workdir / run_folder.RESULT).unlink(missing_ok=True)
        files.write_json(self._workdir / run_folder.CONFIG, config.to_dict(run_folder.anywhere(self._experiment)))
        files.write_json(path, now)

    def _restore(self, saved: checkpoints.Checkpoints) -> tuple[train.TrainState | None, bool]:
        restored = saved.restore_newest(self._terminal.say)
        if restored is None:
            if (self._workdir / run_folder.RESULT).exists():
                raise RunError(
                    f"{self._workdir}: expected the checkpoints of a run that was finished, found none; put "
                    "them back, or start again with another --workdir"
                )
            if run_folder.metrics(self._workdir):
                self._terminal.say(
                    f"{self._workdir}: no checkpoint is there yet; starting from the beginning"
                )
            run_folder.write_metrics(self._workdir, [])
            return None, False
        meta = restored.meta
        run_folder.require_same(self._workdir, config.resolve(meta["config"]), self._experiment)
        if meta["data"] != self._dataset.fingerprint:
            raise RunError(
                f"{self._workdir}: expected the data this run began with (fingerprint "
                f"{meta['data'][:16]}), found {self._dataset.fingerprint[:16]}; put that data back, "
                "or name another --workdir"
            )
        template = train.init_state(self._experiment, self._dataset)
        state = serialization.from_state_dict(template, restored.tree)
        self._before, self._saved_step = meta["seconds"], restored.step
        self._terminal.say(f"going on from step {restored.step:,} of {self._workdir}")
        if run_folder.metrics(self._workdir)[: len(meta["rows"])] != meta["rows"]:
            self._terminal.say(f"{self._workdir / run_folder.METRICS} was changed or damaged: writing it anew")
        saved.set_aside()
        end = meta["config"]["num_epochs"] * self._per_epoch
        self._rows = [row for row in meta["rows"] if self._keep(row["step"], restored.step, end)]
        run_folder.write_metrics(self._workdir, self._rows)
        return state, bool(self._rows) and self._rows[-1]["step"] == restored.step

    def _keep(self, step: int, restored: int, end: int) -> bool:
        """Whether an unbroken run would have a row at this step, with `restored` steps taken of then `end`.

        Not so where a shorter run ended that now goes on, unless its end is due to be scored anyway.
        """
        cadence, last = self._experiment.eval, self._experiment.num_epochs * self._per_epoch
        ended_there = step == end != last
        due = bool(cadence.every_epochs) and step % (cadence.every_epochs * self._per_epoch) == 0
        return step <= restored and (not ended_there or due or cadence.every_seconds > 0)

    def _train(
        self, saved: checkpoints.Checkpoints, state: train.TrainState | None, scored: bool
    ) -> dict[str, Any]:
        points = loop.fit(
            self._experiment,
            self._dataset,
            state,
            scored=scored,
            stop=lambda: signals.requested() is not None,
        )
        last: loop.Point | None = None
        with open(self._workdir / run_folder.METRICS, "a") as log:
            for point in points:
                if isinstance(point.row, dict):
                    self._log(log, point, point.row)
                self._show(point, last)
                stop = signals.requested()
                if self._save_due(point) or (stop and point.step not in (0, self._saved_step)):
                    self._save(saved, point)
                if stop:
                    saved.wait()
                    raise signals.InterruptedRunError(
                        stop,
                        f"after step {point.step:,}; give the same command again to go on from there",
                    )
                signals.defer()
                last = point
        assert last is not None
        if last.step != self._saved_step:
            self._save(saved, last)
        saved.wait()
        skipped = int(last.state.nonfinite)
        if skipped:
            self._terminal.say(f"{skipped:,} steps were skipped: they would have made what is not finite")
        return self._result(last)

    def _log(self, log: TextIO, point: loop.Point, row: loop.Row) -> None:
        row = dict(row)
        head = {"step": row.pop("step"), "epoch": row.pop("epoch")}
        line = files.to_json({**head, "seconds": self._seconds(point)["total"], **row})
        self._rows.append(json.loads(line))
        log.write(line + "\n")
        log.flush()
        self._terminal.row(self._rows[-1])

    def _show(self, point: loop.Point, last: loop.Point | None) -> None:
        epochs, inside = divmod(point.step, self._per_epoch)
        examples = len(self._dataset.splits["train"].labels)
        total = self._experiment.num_epochs * examples
        done = epochs * examples + inside * self._experiment.batch_size
        spent = point.seconds.train - (last.seconds.train if last else 0)
        rate = (point.images - (last.images if last else 0)) / spent if spent else 0
        if last and not last.images and point.images:
            elapsed = time.perf_counter() - self._started
            self._terminal.note(
                f"first step after {elapsed:.1f} s, compiling took {point.seconds.compile:.1f} s"
            )
        epoch = min(epochs + 1, self._experiment.num_epochs)
        self._terminal.progress(f"epoch {epoch}/{self._experiment.num_epochs}", done, total, rate, "images")

    def _save_due(self, point: loop.Point) -> bool:
        cadence = self._experiment.checkpoint
        epoch, inside = divmod(point.step, self._per_epoch)
        if point.step in (0, self._saved_step):
            return False
        if cadence.every_epochs and not inside and epoch % cadence.every_epochs == 0:
            return True
        since = time.monotonic() - self._last_save
        return bool(cadence.every_seconds) and since >= cadence.every_seconds

    def _save(self, saved: checkpoints.Checkpoints, point: loop.Point) -> None:
        meta = {
            "config": config.to_dict(self._experiment),
            "data": self._dataset.fingerprint,
            "rows": self._rows,
            "seconds": self._seconds(point),
        }
        score = _score(self._rows[-1]) if self._rows and self._rows[-1]["step"] == point.step else -math.inf
        saved.save(point.step, serialization.to_state_dict(point.state), meta, score)
        self._saved_step, self._last_save = point.step, time.monotonic()

    def _seconds(self, point: loop.Point) -> dict[str, float]:
        """Seconds and images of this process and of those before it."""
        now = {
            "data": self._data_seconds + point.seconds.data,
            "compile": point.seconds.compile,
            "train": point.seconds.train,
            "eval": point.seconds.eval,
            "total": time.perf_counter() - self._started,
            "images": float(point.images),
        }
        return {name: now[name] + self._before[name] for name in now}

    def _result(self, point: loop.Point) -> dict[str, Any]:
        seconds = self._seconds(point)
        images = seconds.pop("images")
        scores = {k: v for k, v in self._rows[-1].items() if k.split("/")[0] in ("test", "validation")}
        return {
            "step": point.step,
            "epoch": point.epoch,
            **scores,
            **{f"seconds/{name}": value for name, value in seconds.items()},
            "images_per_second": images / seconds["train"],
            "fingerprint": checkpoints.fingerprint(serialization.to_state_dict(point.state)["params"]),
        }


def _score(row: dict[str, Any]) -> float:
    """What makes a checkpoint the best: validation accuracy, else training loss; never the test split."""
    if "validation/accuracy" in row:
        return row["validation/accuracy"]
    loss = row.get("train/loss")
    return -math.inf if loss is None else -loss
