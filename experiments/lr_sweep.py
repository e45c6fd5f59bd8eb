"""Which learning rate is best for the reference network, after four epochs.

Eight rates a factor of two apart, two seeds each, trained as one population. After one epoch the best quarter
goes on, after two the better of the two. The winner and the recipe's own 1e-3 are then trained on all 60,000
images. Under 15 minutes on 2 cores; expected: see the README.

    python -m mmids_cnn.main --config=experiments/lr_sweep.py
"""

from ml_collections import ConfigDict

from experiments import sweep


def get_config() -> ConfigDict:
    """Returns the sweep over learning rates."""
    config = sweep.get_config()
    config.num_epochs = 4
    config.sweep.space.optimizer.learning_rate = (
        "choice(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)"
    )
    config.sweep.seeds = 2
    config.sweep.halving = 4
    config.sweep.rungs = (1, 2)
    config.sweep.confirm_seeds = 3
    return config
