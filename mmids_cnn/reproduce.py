"""Runs a finished run again from its record and says 'identical', or what differs.

    python -m mmids_cnn.reproduce --workdir=RUN [--into=DIR]

The new run is trained in a folder of its own, RUN-reproduced by default. Exit status 0: identical; 1: not.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import os
from pathlib import Path

from absl import flags

from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import MODES, Terminal
from mmids_cnn.errors import RunError
from mmids_cnn.runs import differences, run
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the finished run to reproduce.")
    flags.DEFINE_string("into", None, "Folder of the new run; default <workdir>-reproduced.")
    flags.DEFINE_enum("progress", "auto", MODES, "How progress is shown.")


def main() -> int:
    """Trains again and compares results and metrics, bit for bit."""
    old = Path(flags.FLAGS.workdir)
    new = Path(flags.FLAGS.into or f"{old}-reproduced")
    experiment = run_folder.experiment(old)
    experiment_file.add_roots(run_folder.source_roots(old))
    if not (old / run_folder.RESULT).exists():
        raise RunError(
            f"--workdir: expected a finished run, found no {run_folder.RESULT} in {old}; finish it first"
        )
    run_folder.require_intact(old)
    if os.path.exists(new / run_folder.RESULT):  # noqa: PTH110 - also --workdir itself
        raise RunError(f"--into: expected a folder without a finished run, got {new}; name another")
    terminal = Terminal(flags.FLAGS.progress)
    run.execute(experiment, new, terminal)

    from mmids_cnn.runs import provenance  # JAX: imported by the run anyway

    found = differences.between(old, new)
    if not found:
        terminal.say(f"identical: {new} has the results, metrics and parameters of {old}, bit for bit")
        terminal.require_written()
        return 0
    setting = provenance.changes(*(files.read_sealed(path / run_folder.PROVENANCE) for path in (old, new)))
    terminal.say(f"different: {'; '.join(found)}")
    terminal.say(f"what else differs: {'; '.join(setting) if setting else 'nothing that was recorded'}")
    terminal.require_written()
    return 1


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
