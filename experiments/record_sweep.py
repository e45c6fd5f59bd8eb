"""A search around the settings of `record.py`, by 10,000 images held out of the training split.

One population of 16 random settings, which takes a GPU; on a CPU set --config.sweep.population to its cores.

    python -m mmids_cnn.main --config=experiments/record_sweep.py
"""

from ml_collections import ConfigDict

from experiments import record, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(record.get_config())
    config.num_epochs = 6
    config.sweep.space.optimizer.learning_rate = "log_uniform(3e-3, 1.6e-2)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.15)"
    config.sweep.space.augment.shift = "uniform(1.0, 4.0)"
    config.sweep.space.augment.rotation = "uniform(5.0, 20.0)"
    config.sweep.space.augment.scale = "uniform(0.05, 0.25)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.3)"
    config.sweep.space.augment.cutout = "uniform(0.0, 10.0)"
    config.sweep.search = "random"
    config.sweep.trials = 16
    config.sweep.population = 16
    return config
