"""A search around the settings of `one_epoch.py`, by 10,000 images held out of the training split.

python -m mmids_cnn.main --config=experiments/one_epoch_sweep.py
"""

from ml_collections import ConfigDict

from experiments import one_epoch, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(one_epoch.get_config())
    config.sweep.space.batch_size = "choice(32, 64, 128)"
    config.sweep.space.model.channels = "choice((16, 24, 32), (16, 32, 64), (24, 48, 64))"
    config.sweep.space.model.depths = "choice((1, 1, 1), (1, 2, 1), (1, 2, 2))"
    config.sweep.space.optimizer.learning_rate = "log_uniform(3e-3, 3e-2)"
    config.sweep.space.optimizer.b2 = "choice(0.95, 0.99, 0.999)"
    config.sweep.space.optimizer.warmup_fraction = "uniform(0.1, 0.5)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.2)"
    config.sweep.space.train.average_decay = "choice(0.9, 0.95, 0.98)"
    config.sweep.trials = 40
    config.sweep.population = 8
    return config
