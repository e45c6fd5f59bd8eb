"""Scores a trained run, or several as one.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test] [--views=5]
    python -m mmids_cnn.evaluate --workdir=DIR --workdir=DIR2 ...

Prints loss and accuracy over every example of the split, and how each class fared. Of several runs, an
ensemble, the mean of the probabilities is scored, with each run's own score beside it.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import folder as run_folder


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_multi_string("workdir", ["runs/base"], "Folder of the run to score; several: an ensemble.")
    flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")
    flags.DEFINE_enum("views", "1", ["1", "5", "9"], "Views of each image, moved by a pixel, to be averaged.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdirs, name = [Path(workdir) for workdir in flags.FLAGS.workdir], flags.FLAGS.split
    experiments = [run_folder.experiment(workdir) for workdir in workdirs]
    for workdir in workdirs:
        run_folder.require_checkpoint(workdir, flags.FLAGS.checkpoint)
        experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    datasets = [data.load(experiment.dataset, terminal.report) for experiment in experiments]
    terminal.close()
    for workdir, dataset in zip(workdirs, datasets, strict=True):
        if name not in dataset.splits:
            raise ConfigError(
                f"--split: expected one of {', '.join(dataset.splits)}, got {name!r}; a validation split is "
                "there if the run had dataset.validation_examples > 0"
            )
        if len(dataset.splits[name].labels) != len(datasets[0].splits[name].labels):
            raise ConfigError(f"--split: expected the same images for all runs, {workdir} has others")

    # JAX is imported once the input is known to be right.
    from mmids_cnn.runs import ensemble, trained

    started, views = time.perf_counter(), int(flags.FLAGS.views)
    logits, members = [], []
    for workdir, experiment, dataset in zip(workdirs, experiments, datasets, strict=True):
        found = trained.load(workdir, experiment, dataset, flags.FLAGS.checkpoint, command.warn)
        images = dataset.splits[name].images
        logits.append(ensemble.logits(found, images, experiment.eval.batch_size, views))
        members.append(f"{found.what} after step {found.step:,} of {workdir}")
    labels, together = np.asarray(datasets[0].splits[name].labels), ensemble.mean(logits)
    elapsed = time.perf_counter() - started
    counts = metrics.confusion(labels, together.argmax(-1), datasets[0].num_classes)
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), _rows(counts))
    how = f", each the mean of {views} views moved by at most a pixel" if views > 1 else ""
    if len(members) > 1:
        for experiment, each, member in zip(experiments, logits, members, strict=True):
            terminal.say(f"{_scores(experiment, name, each, labels)}; {member}")
        members = [f"the mean of the probabilities of {len(members)} runs"]
    terminal.say(f"{_scores(experiments[0], name, together, labels)}{how}, in {elapsed:.2f} s; {members[0]}")
    terminal.require_written()


def _scores(experiment: config_lib.Experiment, split: str, logits: np.ndarray, labels: np.ndarray) -> str:
    """Accuracy and the other metrics of some logits, as people read them."""
    import jax.numpy as jnp

    from mmids_cnn import sums

    names = experiment.eval.metrics
    arrays: Any = [jnp.asarray(array) for array in (logits, labels, np.ones(len(labels), bool))]
    means = sums.add_up(names, *arrays).means(split)
    others = "".join(
        f", {label} {one.show(means[f'{split}/{label}'])}"
        for label, one in metrics.by_label(names).items()
        if label != "accuracy"
    )
    accuracy = metrics.metric("accuracy").show(means[f"{split}/accuracy"])
    return f"{split} accuracy {accuracy} of {means[f'{split}/count']:,} images{others}"


def _rows(counts: np.ndarray) -> Sequence[tuple[object, ...]]:
    """How each class fared, from the confusion counts."""
    rows: list[tuple[object, ...]] = []
    for label, row in enumerate(counts):
        wrong = row.copy()
        wrong[label] = 0
        taken_for = f"{wrong.argmax()} ({wrong.max()} times)" if wrong.any() else "-"
        share = metrics.metric("accuracy").show(row[label] / max(row.sum(), 1))
        rows.append((label, f"{row.sum():,}", share, taken_for))
    return rows


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
