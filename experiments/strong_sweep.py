"""A search around the settings of `strong.py`, by 10,000 images held out of the training split.

Two populations of 64 random settings, two minutes on an H200; on a CPU set --config.sweep.population to its
cores. Its trials are in tests/benchmarks/records/searches/strong.csv.

    python -m mmids_cnn.main --config=experiments/strong_sweep.py
"""

from ml_collections import ConfigDict

from experiments import strong, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(strong.get_config())
    config.sweep.space.optimizer.learning_rate = "log_uniform(2e-3, 1.2e-2)"
    config.sweep.space.optimizer.weight_decay = "log_uniform(1e-4, 1e-1)"
    config.sweep.space.optimizer.b2 = "choice(0.99, 0.999)"
    config.sweep.space.optimizer.warmup_fraction = "uniform(0.05, 0.3)"
    config.sweep.space.train.label_smoothing = "uniform(0.02, 0.12)"
    config.sweep.space.train.average_decay = "choice(0.95, 0.98, 0.99)"
    config.sweep.space.augment.shift = "uniform(0.5, 1.8)"
    config.sweep.space.augment.rotation = "uniform(4.0, 12.0)"
    config.sweep.space.augment.scale = "uniform(0.03, 0.15)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.1)"
    config.sweep.search = "random"
    config.sweep.trials = 128
    config.sweep.population = 64
    return config
