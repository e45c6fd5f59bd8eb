"""A search around the settings of `tiny.py`, by 10,000 images held out of the training split.

40 random settings, 16 epochs each. As one population they take a GPU; on a CPU set --config.sweep.population
to its cores: an hour on 2. The trials are in tests/benchmarks/records/searches/tiny.csv.

    python -m mmids_cnn.main --config=experiments/tiny_sweep.py
"""

from ml_collections import ConfigDict

from experiments import sweep, tiny


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(tiny.get_config(), num_epochs=16)
    config.sweep.space.optimizer.learning_rate = "log_uniform(6e-3, 4e-2)"
    config.sweep.space.optimizer.b2 = "choice(0.95, 0.99, 0.999)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.1)"
    config.sweep.space.train.average_decay = "choice(0.98, 0.995, 0.999)"
    config.sweep.space.augment.shift = "uniform(0.0, 2.5)"
    config.sweep.space.augment.rotation = "uniform(0.0, 15.0)"
    config.sweep.space.augment.scale = "uniform(0.0, 0.15)"
    config.sweep.space.augment.shear = "uniform(0.0, 0.15)"
    config.sweep.search = "random"
    config.sweep.trials = 40
    config.sweep.population = 40
    return config
