"""Scores a trained run, or several as one.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test] [--views=5] [--shifts] [--json]
    python -m mmids_cnn.evaluate --workdir=DIR --workdir=DIR2 ...
    python -m mmids_cnn.evaluate --workdir=DIR --name=kmnist --archives=FOLDER

Prints loss and accuracy over every example of the split, and how each class fared. Several runs are scored as
an ensemble, by the mean of their probabilities, with each network's own score beside it; so is a sweep, whose
networks are those of its confirmation. `--name` and `--archives` name other data of the same shape.

With `--json` an object a line, of several networks one for each and then one of all together: `workdirs`,
`seeds`, `steps` and `weights` ("last" or "averaged") of the networks, `split`, `views`, `loss` (nats),
`accuracy` (a fraction) and any metric beside them, `count` of images; in the last also `classes` (names) and
`confusion` (counts, a row a true class). `--shifts` adds a line a change: its name is `shift`, and
`accuracies` has one for each severity.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.datasets import cache, classes
from mmids_cnn.errors import ConfigError
from mmids_cnn.pages import statistics
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder

if TYPE_CHECKING:
    from mmids_cnn.sweeps.members import Member


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_multi_string("workdir", ["runs/base"], "Folder of a run or sweep; several: an ensemble.")
    flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")
    flags.DEFINE_enum("views", "1", ["1", "5", "9"], "Views of each image, moved by a pixel, to be averaged.")
    flags.DEFINE_string("name", None, "Name of other data to score on; default: the run's own.")
    flags.DEFINE_string("archives", None, "Folder of the IDX archives of other data.")
    flags.DEFINE_boolean("shifts", False, "Score images that are shifted, turned, blurred and so on, too.")
    flags.DEFINE_string("shifts_picture", None, "PNG file to write, of one image so changed.")
    flags.DEFINE_boolean("json", False, "Print an object a line instead of tables.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdirs = [Path(workdir) for workdir in flags.FLAGS.workdir]
    _require_different(workdirs)
    experiments = [sweep_folder.experiment(workdir, flags.FLAGS.checkpoint) for workdir in workdirs]
    for workdir in workdirs:
        experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal("none" if flags.FLAGS.json else "auto")
    report = command.report if flags.FLAGS.json else terminal.report
    trained_on = [data.load(experiment.dataset, report) for experiment in experiments]
    split = _scored(experiments[0], trained_on, workdirs, report)
    terminal.close()

    # JAX is imported once the input is known to be right.
    from mmids_cnn.runs import ensemble
    from mmids_cnn.sweeps import members

    started, views = time.perf_counter(), int(flags.FLAGS.views)
    found = [
        member
        for workdir, own in zip(workdirs, trained_on, strict=True)
        for member in members.load(workdir, own, flags.FLAGS.checkpoint, command.warn)
    ]

    def answer(images: np.ndarray) -> list[np.ndarray]:
        return [ensemble.logits(m.trained, images, m.experiment.eval.batch_size, views) for m in found]

    logits, labels, shown = answer(split.images), np.asarray(split.labels), experiments[0].eval.metrics
    together = ensemble.mean(logits)
    elapsed = time.perf_counter() - started
    names = trained_on[0].class_names
    counts = metrics.confusion(labels, together.argmax(-1), len(names))
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), _rows(counts, names))
    how = f", each the mean of {views} views moved by at most a pixel" if views > 1 else ""
    if len(found) > 1:
        for member, own_logits in zip(found, logits, strict=True):
            _say(terminal, ensemble.scores(shown, own_logits, labels), [member], member.title, how)
    whose = found[0].title
    if len(found) > 1:
        whose = f"the mean of the probabilities of {len(found)} networks"
    scores = ensemble.scores(shown, together, labels)
    table = {"classes": names, "confusion": counts.tolist()}
    _say(terminal, scores, found, whose, f"{how}, in {elapsed:.2f} s", **table)
    if flags.FLAGS.shifts or flags.FLAGS.shifts_picture:
        _shifts(terminal, split, lambda images: ensemble.mean(answer(images)), found)
    terminal.require_written()


def _require_different(workdirs: Sequence[Path]) -> None:
    """Raises `ConfigError` where one folder is named twice: its networks would count twice in the mean."""
    seen: dict[Path, Path] = {}
    for workdir in workdirs:
        if (first := seen.setdefault(workdir.resolve(), workdir)) is not workdir:
            raise ConfigError(
                f"--workdir: expected each folder once, found {workdir}, which is {first}; leave one out"
            )


def _scored(
    experiment: config_lib.Experiment,
    trained_on: Sequence[data.Dataset],
    workdirs: Sequence[Path],
    report: cache.Report,
) -> data.Split:
    """The images that are scored; raises `ConfigError` where they do not fit the runs."""
    name, first = flags.FLAGS.split, trained_on[0]
    dataset = first
    if flags.FLAGS.name is not None or flags.FLAGS.archives is not None:
        settings = dataclasses.replace(
            experiment.dataset,
            name=flags.FLAGS.name or experiment.dataset.name,
            archives=flags.FLAGS.archives or "",
            validation_examples=0,
        )
        dataset = data.load(settings, report)
    for workdir, own in zip(workdirs, trained_on, strict=True):
        if own.class_names != first.class_names and own.fingerprint != first.fingerprint:
            raise ConfigError(
                f"--workdir: expected the classes of {workdirs[0]}, {', '.join(first.class_names)}, "
                f"found {', '.join(own.class_names)} in {workdir}; leave it out"
            )
        fits = dataset.image_shape == own.image_shape and dataset.num_classes <= own.num_classes
        if not fits or own.num_classes != first.num_classes:
            shapes = ("x".join(map(str, one.image_shape)) for one in (own, dataset))
            raise ConfigError(
                f"--workdir: expected data as {workdir} was trained on, {next(shapes)} and "
                f"{own.num_classes} classes, found {next(shapes)} and {dataset.num_classes}; name others"
            )
    if dataset is not first and name == "validation":
        raise ConfigError("--split: expected train or test of other data, got 'validation'; change it")
    if name not in dataset.splits:
        raise ConfigError(
            f"--split: expected one of {', '.join(dataset.splits)}, got {name!r}; a validation split is "
            "there if the run had dataset.validation_examples > 0"
        )
    for workdir, own in zip(workdirs, trained_on, strict=True) if dataset is first else ():
        if own.fingerprint != dataset.fingerprint:
            command.warn(f"{workdir} was trained on other data than {workdirs[0]}, whose images are scored")
        elif name != "test" and _size(own, name) != _size(dataset, name):  # one has held out what others saw
            raise ConfigError(
                f"--split: expected the same {name} images in all runs, {_size(dataset, name):,} as in "
                f"{workdirs[0]}, found {_size(own, name):,} in {workdir}; score --split=test, or leave it out"
            )
    return dataset.splits[name]


def _size(dataset: data.Dataset, name: str) -> int:
    return len(dataset.splits[name].labels) if name in dataset.splits else 0


def _say(
    terminal: Terminal,
    scores: Mapping[str, float | int],
    members: Sequence["Member"],
    whose: str,
    how: str = "",
    **more: Any,
) -> None:
    """Scores of some networks together, in words or as an object."""
    if flags.FLAGS.json:
        whom = {
            "workdirs": [str(member.workdir) for member in members],
            "seeds": [member.experiment.seed for member in members],
            "steps": [member.trained.step for member in members],
            "weights": [config_lib.weights(member.experiment) for member in members],
        }
        asked = {"split": flags.FLAGS.split, "views": int(flags.FLAGS.views)}
        terminal.say(files.to_json({**whom, **asked, **scores, **more}))
        return
    by_label = metrics.by_label(members[0].experiment.eval.metrics)
    others = "".join(f", {x} {one.show(scores[x])}" for x, one in by_label.items() if x != "accuracy")
    accuracy = metrics.metric("accuracy").show(scores["accuracy"])
    count = f"{flags.FLAGS.split} accuracy {accuracy} of {scores['count']:,} images"
    terminal.say(f"{count}{others}{how}; {whose}")


def _shifts(terminal: Terminal, split: data.Split, answer: Any, members: Sequence["Member"]) -> None:
    """Accuracy on images that are changed in several ways, a row a way."""
    from mmids_cnn.deploy import shifts

    labels = np.asarray(split.labels)
    found: dict[str, list[float]] = {name: [] for name in shifts.SHIFTS}
    total = len(shifts.SHIFTS) * len(shifts.SEVERITIES)
    for index, (name, _, images) in enumerate(shifts.changed(np.asarray(split.images))):
        found[name].append(float((answer(images).argmax(-1) == labels).mean()))
        terminal.progress("changing and scoring images", index + 1, total, 0, "sets")
    terminal.close()
    if flags.FLAGS.json:
        for name, each in found.items():
            _say(terminal, {"count": len(labels)}, members, "", shift=name, accuracies=each)
    else:
        show = metrics.metric("accuracy").show
        rows = [(name, *map(show, each), show(sum(each) / len(each))) for name, each in found.items()]
        terminal.table("", ("changed", *(f"severity {n}" for n in shifts.SEVERITIES), "mean"), rows)
    if flags.FLAGS.shifts_picture:
        path = Path(flags.FLAGS.shifts_picture)
        with files.faults(f"writing {path}"):
            files.write_bytes(path, shifts.picture(np.asarray(split.images[0])))


def _rows(counts: np.ndarray, names: Sequence[str]) -> Sequence[tuple[object, ...]]:
    """How each class fared, from the confusion counts."""
    rows: list[tuple[object, ...]] = []
    titles = [classes.title(names, label) for label in range(len(counts))]
    for title, one in zip(titles, statistics.by_class(counts), strict=True):
        taken_for = "-" if one.taken_for is None else f"{titles[one.taken_for]} ({one.times} times)"
        share = "–" if one.recall is None else metrics.metric("accuracy").show(one.recall)
        rows.append((title, f"{one.size:,}", share, taken_for))
    return rows


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
