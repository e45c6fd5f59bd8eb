"""Writes the page of a run, finished or not: report.html in its folder, one file that needs no network.

    python -m mmids_cnn.report --workdir=RUN

It shows accuracy, learning curves, confusion, all errors, calibration, classes, filters, and where the run
comes from.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import importlib.util
from pathlib import Path

from absl import flags

from mmids_cnn import data
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import folder as sweep_folder


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")


def main() -> None:
    """Scores the test split with the newest whole checkpoint and writes the page."""
    workdir = Path(flags.FLAGS.workdir)
    if sweep_folder.is_sweep(workdir):
        raise RunError(
            f"{workdir}: expected a run, found a sweep; its {sweep_folder.REPORT} is written by the sweep's "
            "own command, also where it is finished"
        )
    experiment = run_folder.experiment(workdir)
    run_folder.require_checkpoint(workdir, "newest")
    run_folder.require_writable(workdir)
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "report: expected the package matplotlib, found none; install the extra: "
            "pip install 'mmids_cnn[report]'"
        )
    experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    dataset = data.load(experiment.dataset, terminal.report)
    terminal.close()

    # JAX and matplotlib are imported once the input is known to be right.
    from mmids_cnn.runs import report

    terminal.say(f"report: {report.write(workdir, dataset, command.warn)}")


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
