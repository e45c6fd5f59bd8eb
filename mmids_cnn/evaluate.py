"""Scores a trained run.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test]

Prints loss and accuracy over every example of the split, and how each class fared.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn import interrupt

    interrupt.watch()

import time
from pathlib import Path

from absl import flags

from mmids_cnn import cli, run
from mmids_cnn.errors import ConfigError


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run whose parameters are scored.")
    flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdir = Path(flags.FLAGS.workdir)
    experiment = run.experiment(workdir)

    import numpy as np  # and JAX below: imported once the command line is known to be right

    from mmids_cnn import data, metrics, model, score, session
    from mmids_cnn.terminal import Terminal

    terminal = Terminal()
    trained = session.load(workdir, flags.FLAGS.checkpoint)
    dataset = data.load(experiment.dataset)
    if flags.FLAGS.split not in dataset.splits:
        raise ConfigError(
            f"--split: expected one of {', '.join(dataset.splits)}, got {flags.FLAGS.split!r}; "
            "a validation split is there if the run had dataset.validation_examples > 0"
        )
    split = dataset.splits[flags.FLAGS.split]
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    scorer = score.Scorer(network, {flags.FLAGS.split: split}, experiment.eval.batch_size)
    scorer.compile(trained.params)
    started = time.perf_counter()
    scores = scorer(trained.params)
    assert scores is not None
    means = scores[flags.FLAGS.split].means(flags.FLAGS.split)
    elapsed = time.perf_counter() - started
    predictions = score.logits(network, trained.params, split.images).argmax(-1)
    counts = metrics.confusion(np.asarray(split.labels), predictions, dataset.num_classes)
    rows = []
    for label, row in enumerate(counts):
        wrong = row.copy()
        wrong[label] = 0
        taken_for = f"{wrong.argmax()} ({wrong.max()} times)" if wrong.any() else "-"
        share = f"{100 * row[label] / max(row.sum(), 1):.2f} %"
        rows.append((label, f"{row.sum():,}", share, taken_for))
    terminal.table("", ("class", "images", "accuracy", "most often taken for"), rows)
    terminal.say(
        f"{flags.FLAGS.split} accuracy {100 * means[f'{flags.FLAGS.split}/accuracy']:.2f} % of "
        f"{means[f'{flags.FLAGS.split}/count']:,} images, loss {means[f'{flags.FLAGS.split}/loss']:.4f}, in "
        f"{elapsed:.2f} s; parameters after step {trained.step:,} of {workdir}"
    )


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
