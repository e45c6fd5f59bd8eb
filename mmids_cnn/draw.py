"""Writes a page to draw on, which shows what a network sees, says and looks at.

    python -m mmids_cnn.draw --workdir=DIR

DIR is the folder of a run, or of a sweep, whose winner is taken as its first confirmation trained it. The
page is DIR/draw.html: one file that needs no network and opens in any browser, on a phone too.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from mmids_cnn import data
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal, counted
from mmids_cnn.deploy import draw_page
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run or sweep whose network is drawn for.")
    flags.DEFINE_string(
        "checkpoint", "newest", "What the page begins with: 'newest', 'best', or a step's number."
    )


def main() -> None:
    """Restores the parameters, scores the test split to choose examples, and writes the page."""
    workdir = Path(flags.FLAGS.workdir)
    experiment = sweep_folder.experiment(workdir, flags.FLAGS.checkpoint)
    draw_page.require_known(experiment.model.name)
    run_folder.require_writable(workdir)
    experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    dataset = data.load(experiment.dataset, terminal.report)
    terminal.close()
    draw_page.require_grey(dataset.image_shape)

    # JAX is imported once the input is known to be right.
    from mmids_cnn import score
    from mmids_cnn.runs import trained
    from mmids_cnn.sweeps import members

    warn = functools.cache(command.warn)  # once of what several checkpoints have in common
    member = members.load(workdir, dataset, flags.FLAGS.checkpoint, warn)[0]
    start = member.trained
    images = dataset.splits["test"].images
    logits = score.logits(start.network, start.variables, images, experiment.eval.batch_size)
    rest: Iterator[trained.Trained] = iter(())
    rows: list[dict[str, Any]] = []
    if not sweep_folder.is_sweep(workdir):
        rest = draw_page.others(workdir, experiment, dataset, start.step, warn)
        rows = run_folder.metrics(workdir)
    text, count = draw_page.page(experiment.model.name, dataset, start, rest, logits, rows)
    path = workdir / draw_page.NAME
    with files.faults(f"writing {path}"):
        files.write_text(path, text)
    terminal.say(f"wrote {path}, {len(text) / 1000:.0f} kB, {counted(count, 'checkpoint')} of {member.where}")
    terminal.say(f"open it in a browser: {path.absolute().as_uri()}")
    terminal.require_written()


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
