"""A search around the settings of `fast.py`, by 10,000 images held out of the training split.

Ten minutes on 2 cores; its trials are in tests/benchmarks/records/searches/fast.csv.

    python -m mmids_cnn.main --config=experiments/fast_sweep.py
"""

from ml_collections import ConfigDict

from experiments import fast, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(fast.get_config())
    config.sweep.space.batch_size = "choice(64, 128)"
    config.sweep.space.optimizer.learning_rate = "log_uniform(4e-3, 2e-2)"
    config.sweep.space.optimizer.b2 = "choice(0.95, 0.99, 0.999)"
    config.sweep.space.optimizer.warmup_fraction = "uniform(0.1, 0.5)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.2)"
    config.sweep.space.train.average_decay = "choice(0.9, 0.97, 0.99)"
    config.sweep.space.augment.shift = "uniform(0.0, 2.0)"
    config.sweep.trials = 48
    return config
