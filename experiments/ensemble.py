"""Five networks of `record.py`, of which the mean of the probabilities is scored.

The best known mean is 99.745 ± 0.020 %, of 15 networks: Chris Deotte, kaggle.com/cdeotte. A sweep over
nothing: five seeds, trained on all 60,000 images. Expected: 99.76 ± 0.04 % (n = 3, of different networks);
five times as long as `record.py`. Networks of a form before had 99.74 %.

    python -m mmids_cnn.main --config=experiments/ensemble.py
    python -m mmids_cnn.evaluate --workdir=runs/ensemble
"""

from ml_collections import ConfigDict

from experiments import record, sweep


def get_config() -> ConfigDict:
    """Returns the recipe of its members, to be trained over five seeds."""
    config = sweep.around(record.get_config())
    config.sweep.population = 1
    config.sweep.confirm_seeds = 5
    return config
