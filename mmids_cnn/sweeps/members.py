"""The networks in a folder: that of a run, or those of a sweep's confirmation, as they were trained."""

from collections.abc import Callable
from pathlib import Path

from flax import traverse_util

from mmids_cnn import data, model
from mmids_cnn.errors import RunError
from mmids_cnn.populations import ledger
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import trained
from mmids_cnn.runs.trained import Member
from mmids_cnn.sweeps import folder as sweep_folder


def load(workdir: Path, dataset: data.Dataset, which: str, warn: Callable[[str], None]) -> list[Member]:
    """The networks in the folder of a run or sweep.

    Args:
      workdir: the folder, of which `sweeps.folder.experiment` has been asked.
      dataset: the data that they were trained on.
      which: 'newest', 'best' or a step, for a run.
      warn: told of a source that changed since, and of checkpoints that are damaged.

    Raises:
      RunError: they were not kept, are damaged, or were trained on other data or as another network.
      ConfigError: the network is one of your own that cannot be imported any more.
    """
    if sweep_folder.is_sweep(workdir):
        return _of_sweep(workdir, dataset, warn)
    experiment = run_folder.experiment(workdir)
    found = trained.load(workdir, experiment, dataset, which, warn)
    return [Member(workdir, experiment, found, str(workdir))]


def _of_sweep(workdir: Path, dataset: data.Dataset, warn: Callable[[str], None]) -> list[Member]:
    experiments, best = sweep_folder.confirmed(workdir), sweep_folder.best(workdir) or {}
    for name in run_folder.changed_sources(workdir):
        warn(f"the source of {name} was changed since {workdir} was trained")
    kept = ledger.Ledger(workdir / sweep_folder.CONFIRM, dataset.fingerprint, warn)
    try:
        states = kept.states([ledger.Member(best["trial"], one.seed) for one in experiments])
    except RunError as error:
        again = "the sweep's command trains its confirmation again"
        if not any(name.startswith(f"{sweep_folder.CONFIRM}/") for name in best.get("sha256", ())):
            again = "an earlier version kept none: give the sweep's command with another --workdir"
        raise RunError(f"{error}; {again}") from error
    network = model.make(experiments[0], dataset.image_shape, dataset.num_classes)
    found = []
    for experiment, state in zip(experiments, states, strict=True):
        tree = traverse_util.unflatten_dict(state, sep="/")
        one = trained.from_tree(workdir, network, dataset, tree, int(state["step"]))
        found.append(Member(workdir, experiment, one, f"{workdir}, seed {experiment.seed}"))
    return found
