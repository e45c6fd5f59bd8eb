"""The reference recipe over ten seeds: mean and sd of its test accuracy, and a bootstrap interval.

A sweep over nothing: the ten trainings are one population, on all 60,000 images, scored once at the end.

    python -m mmids_cnn.main --config=experiments/seeds.py
"""

from ml_collections import ConfigDict

from experiments import sweep


def get_config() -> ConfigDict:
    """Returns the reference recipe, to be trained over ten seeds."""
    config = sweep.get_config()
    config.sweep.population = 10
    config.sweep.confirm_seeds = 10
    return config
