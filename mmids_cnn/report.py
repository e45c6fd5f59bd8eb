"""Writes the page of a run or sweep, finished or not: report.html in its folder, one file without network.

    python -m mmids_cnn.report --workdir=RUN

Of a run it shows accuracy, learning curves, confusion, all errors, calibration, classes, filters; of a sweep
its winner, which settings matter, all trials. Both say where they come from.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

from collections.abc import Iterable
from pathlib import Path

from absl import flags

from mmids_cnn import data
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import require_package
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import sweep


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run or sweep.")


def main() -> None:
    """Writes the page; of a run, whose test split is scored with the newest whole checkpoint."""
    workdir = Path(flags.FLAGS.workdir)
    if sweep_folder.is_sweep(workdir):
        _tell_damaged(workdir, sweep_folder.damaged(workdir) + sweep_folder.damaged_populations(workdir))
        experiment_file.add_roots(run_folder.source_roots(workdir))
        run_folder.require_writable(workdir)
        Terminal().say(f"report: {sweep.report(workdir)}")
        return
    experiment = run_folder.experiment(workdir)
    _tell_damaged(workdir, run_folder.damaged(workdir))
    run_folder.require_checkpoint(workdir, "newest")
    run_folder.require_writable(workdir)
    require_package("report", "matplotlib", "report")
    experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    dataset = data.load(experiment.dataset, terminal.report)
    terminal.close()

    # JAX and matplotlib are imported once the input is known to be right.
    from mmids_cnn.runs import report

    terminal.say(f"report: {report.write(workdir, dataset, command.warn)}")


def _tell_damaged(workdir: Path, names: Iterable[str]) -> None:
    """Names files that are not what was written, except the page itself, which is written anew here."""
    for name in names:
        if name != sweep_folder.REPORT:
            command.warn(
                f"{workdir / name} is damaged and the page does without it; the command that trained it "
                "writes it anew"
            )


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
