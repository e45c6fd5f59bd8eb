"""Reads `model.safetensors` and scores images with it. Needs NumPy alone, and may be copied anywhere.

    tensors, about = read("model.safetensors")
    probabilities(tensors, about, images)  # uint8 [n, height, width, channels] in, float32 [n, classes] out

The names of the classes are `json.loads(about["class_names"])`. The networks are conv_net and norm_net of
mmids_cnn, or several of them as one, by the mean of their probabilities. Images go in some hundred at a time.
"""

import json
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


def read(path: str) -> tuple[Tensors, dict[str, str]]:
    """Tensors by name, and the metadata: eight bytes of length, JSON of that length, then the numbers."""
    with open(path, "rb") as file:
        content = file.read()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    about, tensors = header.pop("__metadata__", {}), {}
    for name, one in header.items():
        first, last = (start + offset for offset in one["data_offsets"])
        if one["dtype"] != "F32":
            raise ValueError(f"{path}: expected float32, found {one['dtype']} in {name}")
        tensors[name] = np.frombuffer(content[first:last], "<f4").reshape(one["shape"])
    return tensors, about


def probabilities(tensors: Tensors, about: dict[str, str], images: np.ndarray) -> np.ndarray:
    """Probabilities of the classes; each row sums to 1."""
    shares = []
    for network in json.loads(about["networks"]):
        x = logits(tensors, network, images)
        x = np.exp(x - x.max(-1, keepdims=True))
        shares.append(x / x.sum(-1, keepdims=True))
    return np.mean(shares, axis=0)


def logits(tensors: Tensors, network: dict[str, Any], images: np.ndarray) -> np.ndarray:
    """Logits of a network, one of those that the metadata tell of."""
    if network["name"] not in ("conv_net", "norm_net"):
        raise ValueError(f"expected conv_net or norm_net, found {network['name']}")

    def of(path: str) -> np.ndarray:
        return tensors[network["prefix"] + path]

    x = images.astype(np.float32) / np.float32(255)
    if network["name"] == "conv_net":
        for i in range(len(network["channels"])):
            x = _pool(_conv(x, of(f"params/ConvPool_{i}/kernel")) + of(f"params/ConvPool_{i}/bias"))
            x = np.maximum(x, 0)
        x = x.reshape(len(x), -1)
    else:
        ends = np.cumsum(network["depths"])  # the last convolution of a stage is pooled, but in the last one
        for i in range(ends[-1]):
            x = _conv(x, of(f"params/ConvNorm_{i}/kernel"))
            x = _pool(x) if i + 1 in ends[:-1] else x
            mean, var = (of(f"batch_stats/ConvNorm_{i}/{name}") for name in ("mean", "var"))
            factor = of(f"params/ConvNorm_{i}/scale") / np.sqrt(var + np.float32(1e-3))
            x = np.maximum((x - mean) * factor + of(f"params/ConvNorm_{i}/bias"), 0)
        x = x.mean((1, 2))
    return x @ of("params/Dense_0/kernel") + of("params/Dense_0/bias")


def _conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Stride 1; zeros around keep the size."""
    (rows, columns), (height, width) = kernel.shape[:2], x.shape[1:3]
    x = np.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    taps = [(i, j) for i in range(rows) for j in range(columns)]
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)


def _pool(x: np.ndarray) -> np.ndarray:
    """The greatest of each 2x2 pixels; an odd last row or column is left out."""
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
    return x.max((2, 4))
