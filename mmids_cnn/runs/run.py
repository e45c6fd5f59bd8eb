"""A run: one experiment trained in one folder.

Nothing here imports JAX until the input is known to be right.
"""

import time
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import require_package
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files


def execute(experiment: config_lib.Experiment, workdir: Path, terminal: Terminal) -> dict[str, Any]:
    """Trains an experiment in a run folder, going on where an earlier run of it stopped.

    Args:
      experiment: the configuration.
      workdir: the run folder, made if it is not there.
      terminal: what to show it on.

    Returns:
      The content of `result.json`.

    Raises:
      RunError: the folder cannot be used, is in use, or holds a run of another configuration.
      ConfigError, DataError, DeviceError, FaultError, NonFiniteError: see the modules that raise them.
    """
    started = time.perf_counter()
    finished = run_folder.check(workdir, experiment)
    if finished:
        terminal.say(f"{workdir}: finished already; its result:")
        terminal.say(run_folder.summary(finished, workdir))
        return finished
    config_lib.require_sources(config_lib.sources(experiment))
    if experiment.tensorboard:
        instead = ", or set --config.tensorboard=False"
        require_package("config.tensorboard", "tensorboardX", "tensorboard", instead)
    dataset = data.load(experiment.dataset, terminal.report)
    seconds = time.perf_counter() - started

    # JAX: imported once the input is known to be right.
    from mmids_cnn.runs import clock, progress, session, together

    together.agree(experiment, dataset)
    progress.introduce(experiment, dataset, workdir, terminal)
    with files.faults(f"opening {workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
    with files.lock(workdir / ".lock"):
        run_folder.check(workdir, experiment)  # again, now that no other run can be at work here
        return session.run(experiment, dataset, workdir, terminal, clock.Clock(started, seconds))
