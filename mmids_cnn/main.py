"""Trains one experiment, or sweeps over many.

    python -m mmids_cnn.main --config=experiments/base.py [--workdir=DIR]
    python -m mmids_cnn.main --config=experiments/lr_sweep.py [--workdir=DIR]

An experiment with a section `sweep` is a sweep: settings are tried, and the best one is confirmed. The run
folder (default runs/<name of the experiment file>) holds the configuration, where the result comes from, the
metrics, the checkpoints and the result. The same command goes on where it stopped.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from mmids_cnn import config as config_lib
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import MODES, Terminal
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import run
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import sweep


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder; default runs/<name of the experiment file>.")
    flags.DEFINE_enum("progress", "auto", MODES, "How progress is shown.")


def main(config: ConfigDict, path: Path) -> None:
    """Resolves the configuration of an experiment file, perhaps of an earlier version, and runs it."""
    experiment_file.add_roots(run_folder.source_roots(path.parent))  # the winner of a sweep lies beside them
    workdir = Path(flags.FLAGS.workdir or Path("runs") / path.stem)
    terminal = Terminal(flags.FLAGS.progress)
    if sweep_config.is_sweep(config):
        sweep.execute(sweep_config.resolve(config, recorded=True), workdir, terminal)
    else:
        run.execute(config_lib.resolve(config, recorded=True), workdir, terminal)


if __name__ == "__main__":
    command.run(main, define_flags, __doc__, takes_config=True)
