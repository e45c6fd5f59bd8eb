"""Draws what augmentation does to ten digits: records/augmentations.png.

python tests/benchmarks/augmentations.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from mmids_cnn import augment, config, data, keys, optimizer
from mmids_cnn.console import experiment_file

matplotlib.use("Agg")
from matplotlib import pyplot

RECORDS = Path(__file__).resolve().parent / "records"
ROWS = {
    "as stored": {},
    "shift 2": {"shift": 2.0},
    "rotation 10": {"rotation": 10.0},
    "scale 0.1": {"scale": 0.1},
    "shear 0.1": {"shear": 0.1},
    "these together": {"shift": 2.0, "rotation": 10.0, "scale": 0.1, "shear": 0.1},
    "cutout 10": {"cutout": 10.0},
}


def main() -> None:
    """Draws one row for each setting, each image as it would be in the first step of seed 0."""
    settings = experiment_file.load("base")
    split = data.load(config.resolve(settings).dataset).splits["train"]
    digits = [int(np.flatnonzero(split.labels == digit)[0]) for digit in range(10)]
    images, position = jnp.asarray(split.images[digits]), jnp.arange(10)
    figure, axes = pyplot.subplots(len(ROWS), 10, figsize=(7, 5.2), layout="constrained")
    for row, (title, strengths) in zip(axes, ROWS.items(), strict=True):
        settings = experiment_file.load("base")
        settings.augment.update(strengths)
        experiment = config.resolve(settings)
        names, h = augment.active(experiment.augment), optimizer.hyperparams(experiment)
        key = jax.random.fold_in(keys.stream(h.seed, "augment"), 0)
        changed = np.asarray(augment.augment(names, key, position, images, h))
        for axis, image in zip(row, changed, strict=True):
            axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    figure.savefig(RECORDS / "augmentations.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
