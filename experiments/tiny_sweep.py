"""The settings of `tiny.py`, chosen by 10,000 images that are held out of the training split.

python -m mmids_cnn.main --config=experiments/tiny_sweep.py
"""

from ml_collections import ConfigDict

from experiments import sweep, tiny


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(tiny.get_config())
    config.num_epochs = 12
    config.sweep.space.model.channels = "choice((8, 14, 16), (10, 14, 16), (8, 12, 18))"
    config.sweep.space.optimizer.learning_rate = "log_uniform(6e-3, 4e-2)"
    config.sweep.space.optimizer.b2 = "choice(0.95, 0.99, 0.999)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.1)"
    config.sweep.space.augment.shift = "uniform(0.5, 2.5)"
    config.sweep.space.augment.rotation = "uniform(0.0, 15.0)"
    config.sweep.space.augment.scale = "uniform(0.0, 0.15)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.15)"
    config.sweep.trials = 24
    config.sweep.halving = 3
    config.sweep.rungs = (4,)
    return config
