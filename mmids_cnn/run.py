"""A run: one experiment trained in one folder, which holds all that is known about it.

The folder is a stable interface. Nothing here imports JAX until the input is known to be right.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import data, files
from mmids_cnn.errors import RunError
from mmids_cnn.terminal import Terminal

CONFIG = "config.json"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
RESULT = "result.json"


def execute(experiment: config_lib.Experiment, workdir: Path, terminal: Terminal) -> dict[str, Any]:
    """Trains an experiment in a run folder, going on where an earlier run of it stopped.

    Args:
      experiment: the configuration.
      workdir: the run folder, made if it is not there.
      terminal: what to show it on.

    Returns:
      The content of `result.json`.

    Raises:
      RunError: the folder cannot be used, is in use, or holds a run of another configuration.
      DataError, ConfigError, DeviceError, FaultError, NonFiniteError: see the modules that raise them.
    """
    started = time.perf_counter()
    finished = check(workdir, experiment)
    if finished:
        terminal.say(f"{workdir}: finished already; its result:")
        terminal.say(summary(finished, workdir))
        return finished
    dataset = data.load(experiment.dataset, terminal.report)
    seconds = time.perf_counter() - started

    from mmids_cnn import session  # JAX: imported once the input is known to be right

    session.show_setting(experiment, dataset, workdir, terminal)
    with files.faults(f"opening {workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
    with files.lock(workdir / ".lock"):
        check(workdir, experiment)  # again, now that no other run can be at work here
        return session.Session(experiment, dataset, workdir, terminal, started, seconds).run()


def check(workdir: Path, experiment: config_lib.Experiment) -> dict[str, Any] | None:
    """The result of a finished run of this experiment, None if there is room for one.

    Raises:
      RunError: the folder cannot be written, or its configuration differs.
    """
    require_writable(workdir)
    if not (workdir / CONFIG).exists():
        return None
    before = config_lib.resolve(files.read_json(workdir / CONFIG))
    changed = config_lib.differences(before, experiment)
    if _longer(before, experiment):
        del changed["num_epochs"]
    if changed:
        fields = "; ".join(f"config.{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items())
        raise RunError(
            f"{workdir}: expected a run of this configuration, found one that differs in {fields}; "
            f"give it another folder, such as --workdir={workdir}-2"
        )
    if not (workdir / RESULT).exists():
        return None
    result = files.read_json(workdir / RESULT)
    return result if result["epoch"] >= experiment.num_epochs else None


def require_writable(workdir: Path) -> None:
    """Raises a `RunError` unless the folder can be written, or made."""
    existing = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not existing.is_dir() or not files.writable(existing):
        raise RunError(
            f"workdir: expected a folder that can be written, found {existing}; set --workdir to another"
        )


def _longer(before: config_lib.Experiment, now: config_lib.Experiment) -> bool:
    """Whether a run may go on to more epochs: its schedule must not depend on how many there are."""
    settings = now.optimizer
    timeless = settings.schedule == "constant" and settings.warmup_fraction == 0
    return timeless and now.num_epochs > before.num_epochs


def experiment(workdir: Path) -> config_lib.Experiment:
    """The configuration of a run.

    Raises:
      RunError: the folder holds no run.
    """
    if not (workdir / CONFIG).is_file():
        raise RunError(
            f"--workdir: expected a run folder with a {CONFIG}, found none in {workdir}; name the folder of "
            "a run"
        )
    return config_lib.resolve(files.read_json(workdir / CONFIG))


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics of a run, without a last one that a kill tore."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in (workdir / METRICS).read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def cut_back(workdir: Path, keep: Callable[[int], bool]) -> list[dict[str, Any]]:
    """Keeps those rows of metrics whose step `keep` accepts; returns them."""
    kept = [row for row in metrics(workdir) if keep(row["step"])]
    if (workdir / METRICS).exists():
        files.write_text(workdir / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def summary(result: dict[str, Any], workdir: Path) -> str:
    """The result in a few lines."""
    return (
        f"test accuracy {100 * result['test/accuracy']:.2f} % of {result['test/count']:,} images "
        f"(loss {result['test/loss']:.4f}) after {result['epoch']:g} epochs, {result['step']:,} steps\n"
        f"{result['seconds/total']:.1f} s: data {result['seconds/data']:.1f}, "
        f"compile {result['seconds/compile']:.1f}, train {result['seconds/train']:.1f} "
        f"({result['images_per_second']:,.0f} images/s), evaluate {result['seconds/eval']:.1f}\n"
        f"parameters {result['fingerprint'][:16]}; everything is in {workdir}"
    )
