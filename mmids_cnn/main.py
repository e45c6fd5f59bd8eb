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
from mmids_cnn.console.terminal import MODES, Terminal, apart
from mmids_cnn.devices import hosts
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import run
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import sweep


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "Run folder; default runs/<name of the experiment file>.")
    flags.DEFINE_enum("progress", "auto", MODES, "How progress is shown.")
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT where process 0 listens, if several processes train one model; give each the same command "
        "but for --process. Not needed where Slurm, Open MPI or a TPU pod starts them.",
    )
    flags.DEFINE_integer("processes", None, "How many processes train one model.")
    flags.DEFINE_integer("process", None, "Which of them this one is; 0 leads, prints and writes.")


def main(config: ConfigDict, path: Path) -> None:
    """Resolves the configuration of an experiment file, perhaps of an earlier version, and runs it."""
    experiment_file.add_roots(run_folder.source_roots(path.parent))  # the winner of a sweep lies beside them
    workdir = Path(flags.FLAGS.workdir or Path("runs") / path.stem)
    group = hosts.group(flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process)
    if group:
        apart()
    terminal = Terminal(flags.FLAGS.progress)
    if sweep_config.is_sweep(config):
        if group:
            raise ConfigError(
                "--processes: expected one experiment, got a sweep, which several machines share by "
                "--config.sweep.executor=ray; leave out --coordinator, --processes and --process"
            )
        sweep.execute(sweep_config.resolve(config, recorded=True), workdir, terminal)
        return
    experiment = config_lib.resolve(config, recorded=True)
    if group is None:
        run.execute(experiment, workdir, terminal)
        return

    from mmids_cnn.runs import together  # JAX

    with together.joined(group, terminal) as leads:
        if leads:
            run.execute(experiment, workdir, terminal)
        else:
            together.follow(experiment)


if __name__ == "__main__":
    command.run(main, define_flags, __doc__, takes_config=True)
