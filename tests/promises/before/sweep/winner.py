"""The best of the sweep sweep, trial 1: learning_rate=0.004."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the complete configuration."""
    return ConfigDict(
        {
            "seed": 1,
            "num_epochs": 2,
            "batch_size": 50,
            "dataset": {
                "name": "mnist",
                "data_dir": "",
                "archives": "",
                "validation_examples": 0,
                "placement": "auto",
            },
            "model": {"channels": (4, 8), "kernel_size": 3},
            "optimizer": {
                "name": "adam",
                "learning_rate": 0.004,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-08,
                "weight_decay": 0.0,
                "schedule": "constant",
                "warmup_fraction": 0.0,
            },
            "train": {"label_smoothing": 0.0, "precision": "float32", "on_nonfinite": "stop"},
            "eval": {"every_epochs": 1, "every_seconds": 0.0, "batch_size": 1000},
            "checkpoint": {"every_epochs": 1, "every_seconds": 0.0, "keep": 3},
        }
    )
