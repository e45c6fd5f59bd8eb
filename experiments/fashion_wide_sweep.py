"""The first search for `fashion.py`, in a wide space, by 10,000 images held out of the training split.

What it found is said in `fashion_sweep.py`, which followed. Its trials are in
tests/benchmarks/records/searches/fashion_wide.csv, and with a third convolution in the last stage,
--config.model.channels='(24, 32, 48)' --config.model.depths='(1, 2, 3)', in fashion_deeper.csv. Two minutes
on an H200; on a CPU set --config.sweep.population to its cores.

    python -m mmids_cnn.main --config=experiments/fashion_wide_sweep.py --config.dataset.archives=FOLDER
"""

from ml_collections import ConfigDict

from experiments import fashion, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(fashion.get_config(), num_epochs=16)
    config.sweep.space.optimizer.learning_rate = "log_uniform(3e-3, 2e-2)"
    config.sweep.space.optimizer.weight_decay = "log_uniform(1e-3, 2e-1)"
    config.sweep.space.optimizer.b2 = "choice(0.99, 0.999)"
    config.sweep.space.train.label_smoothing = "uniform(0.0, 0.15)"
    config.sweep.space.train.average_decay = "choice(0.995, 0.998, 0.999)"
    config.sweep.space.augment.shift = "uniform(0.0, 1.0)"
    config.sweep.space.augment.rotation = "uniform(0.0, 8.0)"
    config.sweep.space.augment.scale = "uniform(0.0, 0.2)"
    config.sweep.space.augment.cutout = "uniform(0.0, 8.0)"
    config.sweep.search = "random"
    config.sweep.trials = 32
    config.sweep.population = 32
    return config
