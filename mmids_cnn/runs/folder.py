"""The folder of a run, which holds all that is known about it: names, readers, and which run may go on there.

The folder is a stable interface. Each JSON file holds a digest of its own content (`files.write_sealed`), and
the result one of the rows of metrics: what is damaged is not shown, but written anew from the checkpoints.
Nothing here imports JAX.
"""

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import metrics as metrics_lib
from mmids_cnn.console.terminal import counted
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.settings import dotted
from mmids_cnn.storage import files

CONFIG = "config.json"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
RESULT = "result.json"
REPORT = "report.html"


def anywhere(experiment: config_lib.Experiment) -> config_lib.Experiment:
    """The experiment with absolute folders, so that its run can be used from any working directory."""

    def absolute(folder: str) -> str:
        return str(Path(folder).expanduser().absolute()) if folder else ""

    dataset = experiment.dataset
    folders = {"archives": absolute(dataset.archives), "data_dir": absolute(dataset.data_dir)}
    return config_lib.resolve(
        config_lib.to_dict(experiment) | {"dataset": dataclasses.asdict(dataset) | folders}
    )


def check(workdir: Path, experiment: config_lib.Experiment) -> dict[str, Any] | None:
    """The result of a finished run of this experiment, None if there is room for one.

    Raises:
      RunError: the folder cannot be written, or its configuration differs.
    """
    require_utf8(workdir)
    before, result = (_intact(workdir, name) for name in (CONFIG, RESULT))
    if before is not None:  # where it is not there or damaged, each checkpoint holds it as well
        require_same(workdir, config_lib.resolve(before, recorded=True), experiment)
        done = result and (result["epoch"] >= experiment.num_epochs or result.get("stopped"))
        if done and not damaged(workdir):
            return result
    require_writable(workdir)
    return None


def require_same(workdir: Path, before: config_lib.Experiment, now: config_lib.Experiment) -> None:
    """Raises `RunError` unless a run that began with one configuration may go on with another."""
    changed = config_lib.differences(before, now)
    if _longer(before, now):
        del changed["num_epochs"]
    if changed:
        fields = "; ".join(f"config.{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items())
        raise RunError(
            f"{workdir}: expected a run of this configuration, found one that differs in {fields}; "
            f"give it another folder, such as --workdir={workdir}-2"
        )


def say_damaged(workdir: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Says which files of a run or sweep are written anew."""
    for name in names:
        now = ", with the command and the versions of now" if name == PROVENANCE else ""
        say(f"{workdir / name}: expected what was written, found a damaged file; writing it anew{now}")


def damaged(workdir: Path) -> list[str]:
    """Names of files that are there and damaged; a session writes them anew."""
    names = (CONFIG, PROVENANCE, RESULT)
    found = [name for name in names if (workdir / name).exists() and _intact(workdir, name) is None]
    return found + [METRICS] * _other_metrics(workdir, _intact(workdir, RESULT))


def require_intact(workdir: Path) -> None:
    """Raises `RunError` where a file of a finished run is not what was written."""
    if names := damaged(workdir):
        raise RunError(
            f"{workdir / names[0]}: expected what was written, found a damaged file; the command that "
            "trained the run writes it anew"
        )


def _other_metrics(workdir: Path, result: Mapping[str, Any] | None) -> bool:
    """Whether the rows of metrics are not those of the result; one of an earlier version does not say."""
    expected = (result or {}).get("sha256", {}).get(METRICS)
    return expected is not None and files.digest(workdir / METRICS) != expected


def _intact(workdir: Path, name: str) -> dict[str, Any] | None:
    """The content of a JSON file of the folder; None if it is missing, damaged or not what it should be."""
    try:
        content = files.read_sealed(workdir / name)
        _HOLDS[name](content)
    except (RunError, ConfigError):
        return None
    if name == CONFIG:  # a whole one may be an older copy, or another run's
        expected = (_intact(workdir, RESULT) or {}).get("sha256", {}).get(CONFIG)
        if expected not in (None, files.digest(workdir / CONFIG)):
            return None
    return content


def _require(content: dict[str, Any], entries: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raises `RunError` unless each entry is there and of its type."""
    for name, kind in entries.items():
        if name not in content or not isinstance(content[name], kind):
            raise RunError(f"expected {name}")


_NUMBER = (int, float)
_RESULT: dict[str, Any] = dict.fromkeys(
    ("step", "test/count", "epoch", "test/accuracy", "images_per_second"), _NUMBER
)
_RESULT |= {f"seconds/{name}": _NUMBER for name in ("total", "data", "compile", "train", "eval")}
_RESULT |= {"test/loss": (*_NUMBER, type(None)), "fingerprint": str}
_HOLDS: dict[str, Callable[[dict[str, Any]], object]] = {
    CONFIG: lambda content: config_lib.resolve(content, recorded=True),
    PROVENANCE: lambda content: _require(content, {"dataset": dict, "packages": dict}),
    RESULT: lambda content: _require(content, _RESULT),
}


def require_utf8(workdir: Path) -> None:
    """Raises a `RunError` unless the folder's path is UTF-8: Orbax writes to no other."""
    path = workdir.absolute()
    if not files.is_utf8(path):
        raise RunError(
            f"workdir: expected a folder whose path is UTF-8, found {str(path)!a}; set --workdir to "
            "another, or PYTHONUTF8=1 where it is the locale that is not"
        )


def require_writable(workdir: Path) -> None:
    """Raises a `RunError` unless the folder can be written, or made."""
    if obstacle := files.obstacle(workdir):
        raise RunError(
            f"workdir: expected a folder that can be written, found {obstacle}; set --workdir to another"
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
    require_utf8(workdir)
    if not os.path.isfile(workdir / CONFIG):  # noqa: PTH113, which raises where a name is too long
        raise RunError(
            f"--workdir: expected a run folder with a {CONFIG}, found none in {workdir}; name the folder of "
            "a run"
        )
    content = _intact(workdir, CONFIG)
    if content is None:
        raise RunError(
            f"{workdir / CONFIG}: expected a configuration, found a damaged file; the command that trained "
            "the run writes it anew"
        )
    return config_lib.resolve(content, recorded=True)


def require_checkpoint(workdir: Path, which: str) -> None:
    """Raises `RunError` unless a run has checkpoints, and what is asked for may be one of them.

    Args:
      workdir: the run folder.
      which: 'newest', 'best', or a step.
    """
    steps = files.numbered(workdir / CHECKPOINTS)
    if not steps:
        raise RunError(f"{workdir}: expected checkpoints, found none; train it first")
    if which not in ("newest", "best", *map(str, steps)):
        raise RunError(f"--checkpoint: expected newest, best or one of the steps {steps}, got {which!r}")


def result(workdir: Path) -> dict[str, Any] | None:
    """The result of a run; None where it is not finished, or the file is damaged."""
    return _intact(workdir, RESULT)


def provenance(workdir: Path) -> dict[str, Any]:
    """Where what is in a folder comes from; empty where that is not known."""
    return _intact(workdir, PROVENANCE) or {}


def sources(workdir: Path) -> dict[str, dict[str, Any]]:
    """The sources of what is not this package's, as the provenance of a run or sweep has them."""
    found = provenance(workdir).get("sources", {})
    return {name: one for name, one in found.items() if {"root", "sha256"} <= one.keys()}


def changed_sources(workdir: Path) -> list[str]:
    """Names of those whose source is another one by now."""
    return [name for name, one in sources(workdir).items() if dotted.digest(name) != one["sha256"]]


def source_roots(workdir: Path) -> list[str]:
    """The folders from which a run or sweep imported what is not this package's."""
    return [str(source["root"]) for source in sources(workdir).values()]


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics of a run, without one that a kill tore or that is damaged."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in (workdir / METRICS).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "step" in row:
                    rows.append(row)
    return rows


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Writes the result, with the digests of configuration and rows of metrics, which are complete."""
    digests = {name: files.digest(workdir / name) for name in (CONFIG, METRICS)}
    files.write_sealed(workdir / RESULT, {**result, "sha256": digests})


def write_metrics(workdir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the rows of metrics of a run."""
    files.write_text(workdir / METRICS, "".join(files.to_json(row) + "\n" for row in rows))


def summary(result: dict[str, Any], workdir: Path) -> str:
    """The result in a few lines."""
    accuracy, loss = (metrics_lib.metric(name).show(result[f"test/{name}"]) for name in ("accuracy", "loss"))
    epochs = "epoch" if result["epoch"] == 1 else "epochs"
    report = f"report: {workdir / REPORT}\n" if (workdir / REPORT).exists() else ""
    live = result.get("test_live/accuracy")
    which = (
        f", averaged weights; {metrics_lib.metric('accuracy').show(live)} by the last ones" if live else ""
    )
    return (
        f"test accuracy {accuracy} of {result['test/count']:,} images "
        f"(loss {loss}{which}) after {result['epoch']:g} {epochs}, {counted(result['step'], 'step')}\n"
        f"{result['seconds/total']:.1f} s: data {result['seconds/data']:.1f}, "
        f"compile {result['seconds/compile']:.1f}, train {result['seconds/train']:.1f} "
        f"({result['images_per_second']:,.0f} images/s), evaluate {result['seconds/eval']:.1f}\n"
        f"parameters {result['fingerprint'][:16]}; everything is in {workdir}\n"
        f"{report}next: python -m mmids_cnn.evaluate --workdir={shlex.quote(str(workdir))}, or predict (and "
        "a picture) or report in its place"
    )
