"""Scores a trained run, or several as one.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test] [--views=5]
    python -m mmids_cnn.evaluate --workdir=DIR --workdir=DIR2 ...

Prints loss and accuracy over every example of the split, and how each class fared. Several runs are scored as
an ensemble, by the mean of their probabilities, with each network's own score beside it; so is a sweep, whose
networks are those of its confirmation.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.datasets import classes
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import folder as sweep_folder


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_multi_string("workdir", ["runs/base"], "Folder of a run or sweep; several: an ensemble.")
    flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")
    flags.DEFINE_enum("views", "1", ["1", "5", "9"], "Views of each image, moved by a pixel, to be averaged.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdirs, name = [Path(workdir) for workdir in flags.FLAGS.workdir], flags.FLAGS.split
    experiments = [_experiment(workdir, flags.FLAGS.checkpoint) for workdir in workdirs]
    for workdir in workdirs:
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
    from mmids_cnn.runs import ensemble

    started, views = time.perf_counter(), int(flags.FLAGS.views)
    members = [
        (title, ensemble.logits(network, dataset.splits[name].images, experiment.eval.batch_size, views))
        for workdir, experiment, dataset in zip(workdirs, experiments, datasets, strict=True)
        for title, network in _networks(workdir, experiment, dataset)
    ]
    labels = np.asarray(datasets[0].splits[name].labels)
    together = ensemble.mean([logits for _, logits in members])
    elapsed = time.perf_counter() - started
    counts = metrics.confusion(labels, together.argmax(-1), datasets[0].num_classes)
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), _rows(counts, datasets[0]))
    how = f", each the mean of {views} views moved by at most a pixel" if views > 1 else ""
    shown, whose = experiments[0].eval.metrics, members[0][0]
    if len(members) > 1:
        for title, logits in members:
            terminal.say(f"{_scores(shown, name, logits, labels)}; {title}")
        whose = f"the mean of the probabilities of {len(members)} networks"
    terminal.say(f"{_scores(shown, name, together, labels)}{how}, in {elapsed:.2f} s; {whose}")
    terminal.require_written()


def _experiment(workdir: Path, checkpoint: str) -> config_lib.Experiment:
    """The experiment of a run, or of a sweep's networks; raises `RunError` where it has none to score."""
    if not sweep_folder.is_sweep(workdir):
        found = run_folder.experiment(workdir)
        run_folder.require_checkpoint(workdir, checkpoint)
        return found
    if checkpoint != "newest":
        raise RunError(f"--checkpoint: expected newest for a sweep, which keeps no other, got {checkpoint!r}")
    return sweep_folder.confirmed(workdir)[0]


def _networks(
    workdir: Path, experiment: config_lib.Experiment, dataset: data.Dataset
) -> Iterator[tuple[str, Any]]:
    """The network of a run, or those of a sweep, each with words that say which it is."""
    from mmids_cnn.runs import trained
    from mmids_cnn.sweeps import members

    if sweep_folder.is_sweep(workdir):
        each = sweep_folder.confirmed(workdir), members.load(workdir, dataset, command.warn)
        for one, network in zip(*each, strict=True):
            yield f"{network.what} after step {network.step:,} of {workdir}, seed {one.seed}", network
    else:
        network = trained.load(workdir, experiment, dataset, flags.FLAGS.checkpoint, command.warn)
        yield f"{network.what} after step {network.step:,} of {workdir}", network


def _scores(names: tuple[str, ...], split: str, logits: np.ndarray, labels: np.ndarray) -> str:
    """Accuracy and the other metrics of some logits, as people read them."""
    import jax.numpy as jnp

    from mmids_cnn import sums

    arrays: Any = [jnp.asarray(array) for array in (logits, labels, np.ones(len(labels), bool))]
    means = sums.add_up(names, *arrays).means(split)
    others = "".join(
        f", {label} {one.show(means[f'{split}/{label}'])}"
        for label, one in metrics.by_label(names).items()
        if label != "accuracy"
    )
    accuracy = metrics.metric("accuracy").show(means[f"{split}/accuracy"])
    return f"{split} accuracy {accuracy} of {means[f'{split}/count']:,} images{others}"


def _rows(counts: np.ndarray, dataset: data.Dataset) -> Sequence[tuple[object, ...]]:
    """How each class fared, from the confusion counts."""
    rows: list[tuple[object, ...]] = []
    names = [classes.title(dataset.class_names, label) for label in range(len(counts))]
    for label, row in enumerate(counts):
        wrong = row.copy()
        wrong[label] = 0
        taken_for = f"{names[wrong.argmax()]} ({wrong.max()} times)" if wrong.any() else "-"
        share = metrics.metric("accuracy").show(row[label] / max(row.sum(), 1))
        rows.append((names[label], f"{row.sum():,}", share, taken_for))
    return rows


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
