"""A recipe of `experiments/` in PyTorch, eager and channels_last, from its start to its test accuracy.

    python torch_recipe.py --data FOLDER --config JSON

`--config` is the tree of the experiment. What is here is what the recipes use: both networks, AdamW, the
one-cycle schedule, softened labels, affine maps by `grid_sample`, a moving average of the weights (whose
decay is the same from the first step on, where ours rises to it).
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch_eager import EVALUATION_BATCH, make

from protocol import load


def moved(images: Tensor, augment: dict[str, Any]) -> Tensor:
    """Float images, each by an affine map of its own."""
    if not any(augment[name] for name in ("shift", "rotation", "scale", "shear")):
        return images
    u = torch.rand(5, len(images)) * 2 - 1
    angle, zoom = torch.deg2rad(augment["rotation"] * u[2]), 1 + augment["scale"] * u[3]
    cos, sin, shear = torch.cos(angle) / zoom, torch.sin(angle) / zoom, augment["shear"] * u[4]
    shift = augment["shift"] * u[:2] * 2 / images.shape[-1]
    rows = torch.stack([cos - shear * sin, sin - shear * cos, shift[0], -sin, cos, shift[1]], 1)
    grid = functional.affine_grid(rows.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(config: dict[str, Any], arrays: Path) -> float:
    """Test accuracy after the last epoch, of the averaged weights where there are any."""
    torch.manual_seed(config["seed"])
    data, model = load(arrays, 60_000), make(config["model"])
    settings, smoothing = config["optimizer"], config["train"]["label_smoothing"]
    betas = settings["b1"], settings["b2"]
    groups = [
        {"params": [x for x in model.parameters() if x.ndim > 1], "weight_decay": settings["weight_decay"]},
        {"params": [x for x in model.parameters() if x.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas, fused=True)
    steps = config["num_epochs"] * math.ceil(60_000 / config["batch_size"])
    warm = settings["warmup_fraction"] * steps

    def factor(step: int) -> float:
        if settings["schedule"] == "constant":
            return 1.0
        return min((step + 1) / max(warm, 1), 1) * (1 - max(0, step - warm) / max(steps - warm, 1))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    decay, scored = config["train"]["average_decay"], model
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    images = torch.from_numpy(data.train_images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.train_labels).long()
    for _ in range(config["num_epochs"]):
        for indices in torch.randperm(len(images)).split(config["batch_size"]):
            pixels = moved(images[indices].float() / 255, config["augment"])
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[indices], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if decay:
                averaged.update_parameters(model)
    scored = averaged.module if decay else model
    scored.eval()
    with torch.inference_mode():
        test = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
        each = [
            scored((x.float() / 255).contiguous(memory_format=torch.channels_last)).argmax(1)
            for x in test.split(EVALUATION_BATCH)
        ]
    return float((torch.cat(each) == torch.from_numpy(data.test_labels)).double().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", required=True)
    arguments = parser.parse_args()
    print(json.dumps({"test/accuracy": train(json.loads(arguments.config), arguments.data)}))
