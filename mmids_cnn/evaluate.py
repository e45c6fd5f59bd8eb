"""Scores a trained run.

    python -m mmids_cnn.evaluate --workdir=DIR [--split=test]

Prints loss and accuracy over every example of the split, and how each class fared.
"""

import sys
import time
from pathlib import Path

from absl import flags

from mmids_cnn import cli, run
from mmids_cnn.errors import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the run whose parameters are scored.")
_SPLIT = flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")


def main() -> None:
    """Restores the parameters and scores the split."""
    workdir = Path(_WORKDIR.value)
    experiment = run.experiment(workdir)

    import numpy as np  # and JAX below: imported once the command line is known to be right

    from mmids_cnn import data, metrics, model, score, session
    from mmids_cnn.terminal import Terminal

    terminal = Terminal()
    trained = session.load(workdir, _CHECKPOINT.value)
    dataset = data.load(experiment.dataset)
    if _SPLIT.value not in dataset.splits:
        raise ConfigError(
            f"--split: expected one of {', '.join(dataset.splits)}, got {_SPLIT.value!r}; "
            "a validation split is there if the run had dataset.validation_examples > 0"
        )
    split = dataset.splits[_SPLIT.value]
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    scorer = score.Scorer(network, {_SPLIT.value: split}, experiment.eval.batch_size)
    scorer.compile(trained.params)
    started = time.perf_counter()
    means = scorer(trained.params)[_SPLIT.value].means(_SPLIT.value)
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
        f"{_SPLIT.value} accuracy {100 * means[f'{_SPLIT.value}/accuracy']:.2f} % of "
        f"{means[f'{_SPLIT.value}/count']:,} images, loss {means[f'{_SPLIT.value}/loss']:.4f}, in "
        f"{elapsed:.2f} s; parameters after step {trained.step:,} of {workdir}"
    )


if __name__ == "__main__":
    cli.run(main, sys.modules[__name__])
