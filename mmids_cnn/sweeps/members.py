"""The networks that a sweep ends with: those of its confirmation, as they were trained."""

from collections.abc import Callable
from pathlib import Path

from flax import traverse_util

from mmids_cnn import data, dotted, model
from mmids_cnn.errors import RunError
from mmids_cnn.populations.ledger import Ledger, Member
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import trained
from mmids_cnn.runs.trained import Trained
from mmids_cnn.sweeps import folder as sweep_folder


def load(workdir: Path, dataset: data.Dataset, warn: Callable[[str], None]) -> list[Trained]:
    """The networks of a sweep's confirmation, in the order of `folder.confirmed`.

    Args:
      workdir: the sweep's folder.
      dataset: the data that are at hand.
      warn: told of a source that changed since.

    Raises:
      RunError: they were not kept, are damaged, or were trained on other data or as another network.
      ConfigError: the network is one of your own that cannot be imported any more.
    """
    own, best = sweep_folder.confirmed(workdir), sweep_folder.best(workdir) or {}
    for name, source in run_folder.sources(workdir).items():
        if dotted.digest(name) != source["sha256"]:
            warn(f"the source of {name} was changed since {workdir} was trained")
    ledger = Ledger(workdir / sweep_folder.CONFIRM, dataset.fingerprint, warn)
    members = [Member(best["trial"], one.seed) for one in own]
    try:
        states = ledger.states(members)
    except RunError as error:
        raise RunError(f"{error}; the sweep's command trains its confirmation again") from error
    network = model.make(own[0], dataset.image_shape, dataset.num_classes)
    return [
        trained.from_tree(
            workdir, network, dataset, traverse_util.unflatten_dict(state, sep="/"), int(state["step"])
        )
        for state in states
    ]
