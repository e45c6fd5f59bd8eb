"""The settings of `fashion.py`, chosen by 10,000 images that are held out of the training split.

One population of 16 random settings, which takes a GPU; on a CPU set --config.sweep.population to its cores.

    python -m mmids_cnn.main --config=experiments/fashion_sweep.py
"""

from ml_collections import ConfigDict

from experiments import fashion, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(fashion.get_config())
    config.num_epochs = 8
    config.sweep.space.optimizer.learning_rate = "log_uniform(3e-3, 2e-2)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.15)"
    config.sweep.space.augment.shift = "uniform(0.0, 3.0)"
    config.sweep.space.augment.rotation = "uniform(0.0, 10.0)"
    config.sweep.space.augment.scale = "uniform(0.0, 0.2)"
    config.sweep.space.augment.cutout = "uniform(0.0, 14.0)"
    config.sweep.search = "random"
    config.sweep.trials = 16
    config.sweep.population = 16
    return config
