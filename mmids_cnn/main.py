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
from ml_collections import config_flags

from mmids_cnn.console import command
from mmids_cnn.console.terminal import MODES, Terminal
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import sweep


def define_flags() -> None:
    """Defines the flags of this command."""
    config_flags.DEFINE_config_file(
        "config", None, "Experiment file; a Python file that is run, so use only files you trust."
    )
    flags.DEFINE_string("workdir", None, "Run folder; default runs/<name of the experiment file>.")
    flags.DEFINE_enum("progress", "auto", MODES, "How progress is shown.")


def main() -> None:
    """Resolves the configuration and runs it."""
    config, terminal = flags.FLAGS.config, Terminal(flags.FLAGS.progress)
    if sweep_config.is_sweep(config):
        sweep.execute(sweep_config.resolve(config), _workdir(), terminal)
    else:
        run_folder.execute(command.experiment(config), _workdir(), terminal)


def _workdir() -> Path:
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return Path(flags.FLAGS.workdir or Path("runs") / name)


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
