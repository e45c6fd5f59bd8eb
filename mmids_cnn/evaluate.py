"""Scores a trained run.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test]

Prints loss and accuracy over every example of the split, and how each class fared.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mmids_cnn import data, metrics
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import folder as run_folder


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run whose parameters are scored.")
    flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdir, name = Path(flags.FLAGS.workdir), flags.FLAGS.split
    experiment = run_folder.experiment(workdir)
    run_folder.require_checkpoint(workdir, flags.FLAGS.checkpoint)
    experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    dataset = data.load(experiment.dataset, terminal.report)
    terminal.close()
    if name not in dataset.splits:
        raise ConfigError(
            f"--split: expected one of {', '.join(dataset.splits)}, got {name!r}; a validation split is "
            "there if the run had dataset.validation_examples > 0"
        )

    # JAX is imported once the input is known to be right.
    import jax.numpy as jnp

    from mmids_cnn import score, sums
    from mmids_cnn.runs import trained

    split = dataset.splits[name]
    found = trained.load(workdir, experiment, dataset, flags.FLAGS.checkpoint, command.warn)
    started = time.perf_counter()
    logits: Any = score.logits(found.network, found.variables, split.images, experiment.eval.batch_size)
    elapsed = time.perf_counter() - started
    labels: Any = np.asarray(split.labels)
    every: Any = np.ones(len(labels), bool)
    names = experiment.eval.metrics
    means = sums.add_up(names, jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(every)).means(name)
    counts = metrics.confusion(labels, logits.argmax(-1), dataset.num_classes)
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), _rows(counts))
    others = "".join(
        f", {label} {one.show(means[f'{name}/{label}'])}"
        for label, one in metrics.by_label(names).items()
        if label != "accuracy"
    )
    terminal.say(
        f"{name} accuracy {metrics.metric('accuracy').show(means[f'{name}/accuracy'])} of "
        f"{means[f'{name}/count']:,} images{others}, in {elapsed:.2f} s; "
        f"{found.what} after step {found.step:,} of {workdir}"
    )
    terminal.require_written()


def _rows(counts: np.ndarray) -> list[tuple[object, ...]]:
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
