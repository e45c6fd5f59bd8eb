"""A sweep with an empty space: the whole tree of a sweep's settings, which other sweeps start from.

    python -m mmids_cnn.main --config=experiments/sweep.py

A sweep is an experiment with a section `sweep`. Its `space` mirrors the tree of `experiments/base.py`; a leaf
in it is a text that says what the setting may be:

    choice(a, b, c)          one of some values; of tuples too, "choice((8, 8), (16, 32, 32))"
    uniform(low, high)       any number between the two
    log_uniform(low, high)   any number between the two, its logarithm evenly spread
    integers(low, high)      any integer from low to high, both included

"" leaves the setting as the experiment has it. With an empty space there is nothing to choose, and the
experiment itself is trained over `confirm_seeds` seeds. Every leaf is an override here too:

  --config.sweep.search=random --config.sweep.trials=20 '--config.sweep.space.optimizer.b1=uniform(.8, .99)'
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns the reference recipe with the complete section of a sweep."""
    return around(base.get_config())


def around(config: ConfigDict) -> ConfigDict:
    """Returns an experiment with the complete section of a sweep, and validation examples held out."""
    config.dataset.validation_examples = 5000  # settings are chosen by these, never by the test split

    config.sweep = ConfigDict()
    config.sweep.space = _nothing(config)  # what is swept, as above
    config.sweep.search = "grid"  # "grid", "random" or "tpe" (Optuna's tree-structured Parzen estimator)
    config.sweep.trials = 0  # settings tried; for a grid 0, all of it
    config.sweep.batch = 8  # settings that "tpe" suggests before it sees the results of any of them; >= 1
    config.sweep.seeds = 1  # trainings of each setting: seed, seed + 1, ..., the same for all; >= 1
    config.sweep.metric = (
        "validation/accuracy"  # or another of eval.metrics: of the last epoch, mean over seeds
    )
    config.sweep.direction = "maximize"  # "minimize" for a loss

    # Trainings at once, as one program, shared out over the devices (a CPU's cores), so best a multiple of
    # them; >= 1; changes results by rounding alone, on a CPU not at all.
    config.sweep.population = 16
    config.sweep.halving = 0  # successive halving: one in so many settings survives a rung; 0: all do
    config.sweep.rungs = (1, 3)  # epochs after which the field is cut, if halving > 0

    config.sweep.confirm_seeds = 5  # trainings of the winner on the whole training split; 0: none
    config.sweep.confirm_base = True  # and the same of the experiment's own setting, to compare with

    config.sweep.storage = ""  # Optuna's record: "" is a file in the run folder; or postgresql://host/name
    config.sweep.executor = "local"  # "local" in this process, "ray" on the cluster at RAY_ADDRESS
    config.sweep.populations_per_device = 1  # with "ray": that share a GPU; 0: one has all of a node
    return config


def for_recipe(recipe: ConfigDict, num_epochs: int | None = None) -> ConfigDict:
    """Returns a search for the settings of a recipe, in its own or other epochs; its space is empty yet.

    The seeds of the search are none of the result's, and nothing is confirmed: the recipe is trained over its
    own seeds once its settings stand. There is no halving: before a cycle of rates has come to its end, how
    well a setting does tells little of how well it will have done.
    """
    config = around(recipe)
    config.seed = 1000
    config.dataset.validation_examples = 10000
    config.num_epochs = config.eval.every_epochs = num_epochs or recipe.num_epochs
    config.sweep.search = "tpe"
    config.sweep.confirm_seeds = 0
    return config


def _nothing(config: ConfigDict) -> ConfigDict:
    """Every leaf of an experiment that can be swept, left as it is."""
    space = ConfigDict({"num_epochs": "", "batch_size": "", "model": {}})
    for section in ("model", "optimizer", "augment", "train"):
        space[section] = {}
        for leaf in config[section]:
            space[section][leaf] = ""
    return space
