"""A run's network as it was trained, for whatever is done with it afterwards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import serialization, traverse_util

from mmids_cnn import config as config_lib
from mmids_cnn import data, model, train
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import provenance
from mmids_cnn.storage import checkpoints, digests


class Trained(NamedTuple):
    """A network as it was trained.

    Attributes:
      network: the network.
      variables: its variables, those that count: their moving average, where the run kept one.
      step: how many steps they were trained for.
      what: 'parameters' or 'averaged parameters', for whoever shows what they gave.
      rows: of metrics of the run, up to that step; those of a sweep's networks are not here.
      fingerprint: of all that was trained, as `result.json` has it; '' for a sweep's networks.
    """

    network: model.Network
    variables: model.Variables
    step: int
    what: str = "parameters"
    rows: Sequence[Mapping[str, Any]] = ()
    fingerprint: str = ""


class Member(NamedTuple):
    """A network with where it comes from.

    Attributes:
      workdir: the folder of its run or sweep.
      experiment: what it was trained by.
      trained: the network.
      where: its folder in words, and which of a sweep's networks it is.
    """

    workdir: Path
    experiment: config_lib.Experiment
    trained: Trained
    where: str

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"{self.trained.what} after step {self.trained.step:,} of {self.where}"


def load(
    workdir: Path,
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    which: str,
    warn: Callable[[str], None],
) -> Trained:
    """The network of a run, finished or not.

    Args:
      workdir: the run folder.
      experiment: the run's, from `folder.experiment`.
      dataset: the data that are at hand.
      which: 'newest' (that is whole), 'best' (by validation accuracy, else training loss), or a step.
      warn: told of each checkpoint that is damaged and passed over, and of a source that changed since.

    Raises:
      RunError: there is no checkpoint, or the one asked for is not there, not whole or of another network.
      ConfigError: the network is one of your own that cannot be imported any more.
    """
    run_folder.require_checkpoint(workdir, which)
    folder = workdir / run_folder.CHECKPOINTS
    if which == "newest":
        found = checkpoints.newest(folder, warn)
    elif which == "best":
        found = checkpoints.best(folder, warn)
    else:
        found = checkpoints.restore(folder, int(which))
    if found is None:
        raise RunError(f"{workdir}: expected a checkpoint that is whole, found none; train it again")
    if found.meta["data"] != dataset.fingerprint:
        raise RunError(
            f"{workdir}: expected the data it was trained on (fingerprint {found.meta['data'][:16]}), "
            f"found {dataset.fingerprint[:16]}; put that data back"
        )
    before = config_lib.resolve(found.meta["config"], recorded=True)
    changed = config_lib.differences(before, experiment)
    if changed.keys() - {"num_epochs"}:
        raise RunError(
            f"{workdir / run_folder.CONFIG}: expected the configuration of the checkpoints, found one that "
            f"differs in {', '.join(changed)}; put the right file back"
        )
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    for name, source in provenance.sources(config_lib.sources(experiment)).items():
        if source["sha256"] != found.meta.get("sources", {}).get(name, source)["sha256"]:
            warn(f"the source of {name} was changed since {workdir} was trained")
    loaded = from_tree(workdir, network, dataset, found.tree, found.step)
    fingerprint = digests.fingerprint(train.trained_of(found.tree))
    return loaded._replace(rows=found.meta.get("rows", ()), fingerprint=fingerprint)


def from_tree(
    workdir: Path, network: model.Network, dataset: data.Dataset, tree: Mapping[str, Any], step: int
) -> Trained:
    """A network with the variables of a training state, nested dicts as of `train.to_saved`.

    Raises:
      RunError: they are those of another network.
    """
    live = {"params": tree["params"], **(tree.get("collections") or {})}
    average = tree.get("average")
    saved = average or live
    fresh = jax.eval_shape(lambda: model.init(network, jax.random.key(0), dataset.image_shape))
    if _shapes(saved) != _shapes(fresh):
        raise RunError(
            f"{workdir}: expected variables of the network that was trained, found another of its name; put "
            f"the source of {type(network.module).__name__} back"
        )
    what = "averaged parameters" if average else "parameters"
    return Trained(network, serialization.from_state_dict(fresh, saved), step, what)


def _shapes(variables: model.Variables) -> dict[tuple[str, ...], tuple[int, ...]]:
    flat = traverse_util.flatten_dict(serialization.to_state_dict(variables))
    return {path: array.shape for path, array in flat.items()}
