"""The best single network: wider, longer, changed more.

The best known mean is 99.699 ± 0.032 % (n = 30) after 150 epochs: An et al., arXiv 2008.10400. Set by hand
from `small.py`: as the network is wider, a lower learning rate and images that are shifted, scaled and
sheared more. The weight decay is the one of three with which most images held out were right, 99.684 %,
beside 99.672 with a third of it and 99.656 without (`record_sweep.py`); five seeds each, with deviations of
0.02 to 0.05, can hardly tell them apart.

Expected: 99.70 ± 0.04 % (n = 15); 18 minutes on 2 cores. A form before this one was scored on the test split
too: 99.69 %.

    python -m mmids_cnn.main --config=experiments/record.py
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = base.get_config()
    config.num_epochs = 24
    config.batch_size = 64
    config.model = ConfigDict(
        {"name": "norm_net", "channels": (32, 64, 96), "depths": (1, 2, 2), "flatten": False, "dropout": 0.0}
    )
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 0.03
    config.optimizer.schedule = "one_cycle"
    config.optimizer.warmup_fraction = 0.3
    config.train.label_smoothing = 0.07
    config.train.average_decay = 0.998

    config.augment.shift = 1.6
    config.augment.rotation = 9.0
    config.augment.scale = 0.1
    config.augment.shear = 0.1
    return config
