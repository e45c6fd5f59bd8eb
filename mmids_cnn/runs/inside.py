"""What is inside a network: filters, and the maps that its layers make of an image."""

from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mmids_cnn import model
from mmids_cnn.runs.trained import Trained


def look(network: Trained, image: np.ndarray) -> tuple[np.ndarray | None, list[tuple[str, np.ndarray]]]:
    """The kernel of the first convolution, and the maps that layers make of an image.

    Args:
      network: any Linen module with its variables.
      image: `[height, width, channels]`.

    Returns:
      The kernel, `[height, width, in, out]`, or None; and for each layer that puts out maps its name with
      them, `[maps, height, width]`: of the outermost layers that do.
    """
    module, paths = network.network.module, list[tuple[str, ...]]()

    def run(variables: model.Variables, images: jax.Array) -> list[Any]:
        _, state = module.apply(
            variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
        outputs = {path[:-1]: x[0] for path, x in traverse_util.flatten_dict(state["intermediates"]).items()}
        paths.extend(outputs)  # in the order of the calls, which a jitted function's result would lose
        return list(outputs.values())

    with jax.default_matmul_precision(network.network.precision):
        outputs = jax.jit(run)(network.variables, image[None])
    params = traverse_util.flatten_dict(network.variables["params"])
    kernels = [params[*path, "kernel"] for path in paths if (*path, "kernel") in params]
    kernel = next((np.asarray(one) for one in kernels if one.ndim == 4), None)
    each = [(path, x) for path, x in zip(paths, outputs, strict=True) if getattr(x, "ndim", 0) == 4]
    depth = min((len(path) for path, _ in each), default=0)
    return kernel, [("/".join(path), _maps(x)) for path, x in each if len(path) == depth]


def _maps(output: Any) -> np.ndarray:
    """Maps `[maps, height, width]` of an output for one image, whose batch is the last axis or the first."""
    array = np.asarray(output, np.float32)
    return array[..., 0] if array.shape[-1] == 1 else np.moveaxis(array[0], -1, 0)
