"""The settings of `small.py`, chosen by 10,000 images that are held out of the training split.

python -m mmids_cnn.main --config=experiments/small_sweep.py
"""

from ml_collections import ConfigDict

from experiments import small, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(small.get_config())
    config.num_epochs = 12
    config.sweep.space.model.channels = "choice((16, 20, 24), (16, 20, 28), (12, 20, 28), (16, 24, 24))"
    config.sweep.space.optimizer.learning_rate = "log_uniform(4e-3, 2e-2)"
    config.sweep.space.optimizer.b2 = "choice(0.95, 0.99, 0.999)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.15)"
    config.sweep.space.augment.shift = "uniform(1.0, 3.0)"
    config.sweep.space.augment.rotation = "uniform(5.0, 20.0)"
    config.sweep.space.augment.scale = "uniform(0.05, 0.2)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.2)"
    config.sweep.trials = 24
    config.sweep.halving = 3
    config.sweep.rungs = (4,)
    return config
