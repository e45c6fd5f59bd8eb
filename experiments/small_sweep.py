"""A search around the settings of `small.py`, by 10,000 images held out of the training split.

One population of 48 random settings, two minutes on an H200; on a CPU set --config.sweep.population to its
cores. Its trials are in tests/benchmarks/records/searches/small.csv.

    python -m mmids_cnn.main --config=experiments/small_sweep.py
"""

from ml_collections import ConfigDict

from experiments import small, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(small.get_config())
    config.sweep.space.optimizer.learning_rate = "log_uniform(6e-3, 3e-2)"
    config.sweep.space.optimizer.weight_decay = "log_uniform(1e-3, 1e-1)"
    config.sweep.space.optimizer.b2 = "choice(0.99, 0.999)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.1)"
    config.sweep.space.train.average_decay = "choice(0.995, 0.998, 0.999)"
    config.sweep.space.augment.shift = "uniform(0.8, 2.0)"
    config.sweep.space.augment.rotation = "uniform(3.0, 12.0)"
    config.sweep.space.augment.scale = "uniform(0.03, 0.12)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.12)"
    config.sweep.search = "random"
    config.sweep.trials = 48
    config.sweep.population = 48
    return config
