"""Scores a trained run.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test]

Prints loss and accuracy over every example of the split, and how each class fared.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import time
from pathlib import Path

import numpy as np
from absl import flags

from mmids_cnn import data
from mmids_cnn.console import command
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
    dataset = data.load(experiment.dataset)
    if name not in dataset.splits:
        raise ConfigError(
            f"--split: expected one of {', '.join(dataset.splits)}, got {name!r}; a validation split is "
            "there if the run had dataset.validation_examples > 0"
        )

    # JAX is imported once the input is known to be right.
    from mmids_cnn import metrics, model, score
    from mmids_cnn.runs import trained

    terminal, split = Terminal(), dataset.splits[name]
    restored = trained.load(workdir, flags.FLAGS.checkpoint, dataset.fingerprint, command.warn)
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    scorer = score.Scorer(network, {name: split}, experiment.eval.batch_size)
    scorer.compile(restored.params)
    started = time.perf_counter()
    scores = scorer(restored.params)
    elapsed = time.perf_counter() - started
    assert scores is not None  # nothing asks it to stop
    means = scores[name].means(name)
    predictions = score.logits(network, restored.params, split.images).argmax(-1)
    counts = metrics.confusion(np.asarray(split.labels), predictions, dataset.num_classes)
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), _rows(counts))
    terminal.say(
        f"{name} accuracy {100 * means[f'{name}/accuracy']:.2f} % of {means[f'{name}/count']:,} images, "
        f"loss {means[f'{name}/loss']:.4f}, in {elapsed:.2f} s; "
        f"parameters after step {restored.step:,} of {workdir}"
    )


def _rows(counts: np.ndarray) -> list[tuple[object, ...]]:
    """How each class fared, from the confusion counts."""
    rows: list[tuple[object, ...]] = []
    for label, row in enumerate(counts):
        wrong = row.copy()
        wrong[label] = 0
        taken_for = f"{wrong.argmax()} ({wrong.max()} times)" if wrong.any() else "-"
        share = f"{100 * row[label] / max(row.sum(), 1):.2f} %"
        rows.append((label, f"{row.sum():,}", share, taken_for))
    return rows


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
