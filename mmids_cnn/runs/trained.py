"""The parameters of a run, for whatever is done with them after training."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmids_cnn import config, model
from mmids_cnn.storage import checkpoints
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.errors import RunError


class Trained(NamedTuple):
    """Parameters and how many steps they were trained for."""

    params: model.Params
    step: int


def load(workdir: Path, which: str, fingerprint: str, warn: Callable[[str], None]) -> Trained:
    """Parameters of a run, finished or not.

    Args:
      workdir: the run folder.
      fingerprint: of the data that is at hand.
      which: 'newest' (that is whole), 'best' (by validation accuracy, else training loss), or a step.
      warn: told of each checkpoint that is damaged and passed over.

    Raises:
      RunError: there is no checkpoint, or the one asked for is not there or not whole.
    """
    folder = workdir / run_folder.CHECKPOINTS
    if not folder.is_dir():
        raise RunError(f"{workdir}: expected checkpoints, found none; train it first")
    with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saved:
        steps = saved.steps()
        if which == "newest":
            restored = saved.restore_newest(warn)
        elif which == "best":
            restored = saved.restore_best(warn)
        elif which in map(str, steps):
            restored = saved.restore(int(which))
        else:
            raise RunError(f"--checkpoint: expected newest, best or one of the steps {steps}, got {which!r}")
    if restored is None:
        raise RunError(f"{workdir}: expected checkpoints, found none; train it first")
    if restored.meta["data"] != fingerprint:
        raise RunError(
            f"{workdir}: expected the data it was trained on (fingerprint {restored.meta['data'][:16]}), "
            f"found {fingerprint[:16]}; put that data back"
        )
    changed = config.differences(config.resolve(restored.meta["config"]), run_folder.experiment(workdir))
    if changed.keys() - {"num_epochs"}:
        raise RunError(
            f"{workdir / run_folder.CONFIG}: expected the configuration of the checkpoints, found one that differs "
            f"in {', '.join(changed)}; put the right file back"
        )
    return Trained(restored.tree["params"], restored.step)
