"""How wide and deep a network, which kernels, how large a batch: 16 random settings of the shape of things.

What changes a shape is a program of its own, so settings that share a shape are trained together, the others
one after another. The learning rate is drawn too, for the best one depends on the batch.

    python -m mmids_cnn.main --config=experiments/architecture_sweep.py
"""

from ml_collections import ConfigDict

from experiments import sweep


def get_config() -> ConfigDict:
    """Returns the sweep over architectures."""
    config = sweep.get_config()
    config.num_epochs = 3
    config.sweep.space.batch_size = "choice(64, 128, 256)"
    config.sweep.space.model.channels = "choice((8, 16), (16, 32), (8, 16, 16), (16, 32, 32))"
    config.sweep.space.model.kernel_size = "choice(3, 5)"
    config.sweep.space.optimizer.learning_rate = "log_uniform(5e-4, 8e-3)"
    config.sweep.search = "random"
    config.sweep.trials = 16
    config.sweep.halving = 4
    config.sweep.rungs = (1,)
    config.sweep.confirm_seeds = 3
    return config
