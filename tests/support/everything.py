"""What is off in the reference recipe and may be on: images changed, gradients cut, weights averaged, ...

But for schedules, with which a run cannot be made longer.
"""

from typing import Any

EVERYTHING: dict[str, dict[str, Any]] = {
    "optimizer": {"name": "adamw", "weight_decay": 0.02},
    "augment": {"flip": 0.2, "shift": 2.0, "rotation": 10.0, "scale": 0.1, "shear": 0.1, "cutout": 6.0},
    "train": {"label_smoothing": 0.1, "clip_norm": 1.0, "average_decay": 0.9},
}
"""Leaves by section."""

FLAGS = tuple(
    f"--config.{section}.{leaf}={value}"
    for section, leaves in EVERYTHING.items()
    for leaf, value in leaves.items()
)
"""The same on a command line."""
