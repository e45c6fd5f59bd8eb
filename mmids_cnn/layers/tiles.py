"""Convolution and 2x2 max-pooling in a form that CPUs and NVIDIA's GPUs run fast and differentiate fast.

XLA's CPU backend runs a convolution inside a loop, or under `vmap` over kernels, through slow emitters, and
the gradient of max-pooling as a sequential scatter. On a GPU, cuDNN's kernels are made for more channels, and
for a population XLA makes the filter gradients convolutions by kernels as large as the image. Here both are
built from strided slices, elementwise operations and matrix products.

The method. An output window of 2x2 pixels, which is what pooling reduces, depends on a *tile* of (rows + 1)
x (columns + 1) input pixels. All tiles are gathered once (4 instead of 9 copies of each pixel for a 3x3
kernel), and matrix products give the four pixels of all windows as four contiguous arrays, so that pooling
is elementwise. Two kinds of product are used: Winograd's F(2x2, 3x3) (Lavin & Gray 2015, arXiv:1509.09308),
with 16 multiplications for each window, channel and feature instead of 36, and for other kernels a product
with the kernel in its four positions.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

Images = Num[Array, "batch height width channels"]
BatchLast = Num[Array, "channels height width batch"]
Result = Num[Array, "out_channels out_height out_width batch"]
Kernel = Float[Array, "rows columns channels features"]
Quarters = Float[Array, "4 features half_height half_width batch"]
Tiles = Float[Array, "tile_rows tile_columns channels half_height half_width batch"]

# Winograd's transforms along one axis (Lavin & Gray, section 4.1, with the sign of the last product changed
# so that `_OUTPUT` holds one minus less): output = _OUTPUT @ ((_KERNEL @ kernel) * (_INPUT @ tile)).
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, 1]])
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])


def conv_pool(activations: BatchLast, kernel: Kernel) -> Result:
    """Convolves, then takes the maximum of each 2x2 window."""
    return maximum(_windows(activations, kernel))


def max_pool(activations: BatchLast) -> Result:
    """Takes the maximum of each 2x2 window, dropping an odd last row or column."""
    tiles = _tiles(activations, (1, 1), False)
    return maximum(tiles.reshape(4, *tiles.shape[2:]))


def convolution(activations: BatchLast, kernel: Kernel) -> Result:
    """Convolves with stride 1 and the zero padding that keeps the size."""
    _, height, width, batch = activations.shape
    even = jnp.pad(activations, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    quarters = _windows(even, kernel)
    _, features, half_height, half_width, _ = quarters.shape
    split = quarters.reshape(2, 2, features, half_height, half_width, batch).transpose(2, 3, 0, 4, 1, 5)
    return split.reshape(features, 2 * half_height, 2 * half_width, batch)[:, :height, :width]


def _windows(activations: BatchLast, kernel: Kernel) -> Quarters:
    """Convolves; returns the four pixels of each 2x2 window, in row-major order, as four arrays."""
    # With few channels the products do not repay the transforms. Measured with 32 features, values and
    # gradients on one core, Winograd's time over the other's: on 28x28 pixels 5.6, 1.4, 0.94, 0.70 for 1, 4,
    # 8, 16 channels, on 14x14 pixels 4.1, 0.92, 0.67, 0.50.
    if kernel.shape[:2] == (3, 3) and kernel.shape[2] > 4:
        return _winograd(_tiles(activations, (3, 3), True), kernel)
    return _four_positions(_tiles(activations, kernel.shape[:2], False), kernel)


def _winograd(tiles: Tiles, kernel: Kernel) -> Quarters:
    """For each of the 4x4 places in a transformed tile, one product of kernels with all windows."""
    channels, features = kernel.shape[2:]
    # On a GPU the transposes for another order would be launches of their own.
    flat = tiles.reshape(16, channels, -1)
    products = lax.platform_dependent(kernel, flat, cpu=_ordered_products, default=_products)
    # A matrix product also for the output transform: XLA would otherwise fuse these sums into every later
    # use of them and compute them several times.
    sums = jnp.asarray(np.kron(_OUTPUT, _OUTPUT), kernel.dtype) @ products.reshape(16, -1)
    return sums.reshape(4, features, *tiles.shape[3:])


def _products(kernel: Kernel, tiles: Float[Array, "16 channels n"]) -> Float[Array, "16 features n"]:
    """Winograd's transformed kernels times all tiles."""
    return jnp.einsum("pcf,pcn->pfn", _winograd_kernel(kernel), tiles)


@jax.custom_vjp
def _ordered_products(kernel: Kernel, tiles: Float[Array, "16 channels n"]) -> Float[Array, "16 features n"]:
    """`_products` as a CPU likes them.

    The order of the axes decides whether XLA gives a product to YNNPACK or to Eigen. YNNPACK, which needs
    features before channels here, took 0.86 to 0.92 of Eigen's time to score the networks of `small.py` and
    `tiny.py`, and 1.14 for the wide one of `record.py`. Gradients are written out as XLA would order that of
    the kernel the other way round: with features first training the reference network takes 0.92 of the time.
    """
    channels, features = kernel.shape[2:]
    if channels * features < 2048:
        return jnp.einsum("pfc,pcn->pfn", _winograd_kernel(kernel.swapaxes(2, 3)), tiles)
    return _products(kernel, tiles)


def _winograd_kernel(kernel: Float[Array, "3 3 first second"]) -> Float[Array, "16 first second"]:
    transform = jnp.asarray(np.kron(_KERNEL, _KERNEL), kernel.dtype)
    return (transform @ kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])


def _products_forward(kernel: Kernel, tiles: Array) -> tuple[Array, tuple[Kernel, Array]]:
    return _ordered_products(kernel, tiles), (kernel, tiles)


def _products_backward(kept: tuple[Kernel, Array], gradient: Array) -> tuple[Kernel, Array]:
    kernel, tiles = kept
    of_tiles = jnp.einsum("pcf,pfn->pcn", _winograd_kernel(kernel), gradient)
    of_products = jnp.einsum("pfn,pcn->pfc", gradient, tiles)
    transform = jnp.asarray(np.kron(_KERNEL, _KERNEL), kernel.dtype)
    of_kernel = (transform.T @ of_products.reshape(16, -1)).reshape(kernel.swapaxes(2, 3).shape)
    return of_kernel.swapaxes(2, 3), of_tiles


_ordered_products.defvjp(_products_forward, _products_backward)


def _four_positions(tiles: Tiles, kernel: Kernel) -> Quarters:
    """One product of all tiles with the kernel in its four positions within a tile."""
    positions = [((row, 1 - row), (column, 1 - column)) for row in range(2) for column in range(2)]
    kernels = jnp.stack([jnp.pad(kernel, (*position, (0, 0), (0, 0))) for position in positions])
    flat = kernels.transpose(0, 4, 1, 2, 3).reshape(4 * kernel.shape[3], -1)
    return (flat @ tiles.reshape(flat.shape[1], -1)).reshape(4, kernel.shape[3], *tiles.shape[3:])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _tiles(activations: BatchLast, size: tuple[int, int], transform: bool) -> Tiles:
    """Gathers the tile of each 2x2 output window for a kernel of `size`, with Winograd's `transform` or not.

    Its gradient is written out because XLA runs the transpose of a strided slice element by element.
    """
    _, height, width, _ = activations.shape
    change = _transformed(_INPUT) if transform else list
    padded = jnp.pad(activations, ((0, 0), (size[0] // 2,) * 2, (size[1] // 2,) * 2, (0, 0)))
    # Rows and columns in turn: half the additions, and XLA vectorises these fusions better than one of 16
    # terms.
    by_row = jnp.stack(change(_strided(padded, size[0] + 1, height // 2, 1)))
    return jnp.stack(change(_strided(by_row, size[1] + 1, width // 2, 3)), 1)


def _tiles_forward(activations: BatchLast, size: tuple[int, int], transform: bool) -> tuple[Tiles, Array]:
    # Only the shape is needed for the gradient; an empty array carries it.
    return _tiles(activations, size, transform), jnp.empty((0, *activations.shape[1:3]))


def _tiles_backward(
    size: tuple[int, int], transform: bool, shape: Array, gradient: Tiles
) -> tuple[BatchLast]:
    _, height, width = shape.shape
    change = _transformed(_INPUT.T) if transform else list
    rows = jnp.stack(_overlapped(change(list(gradient)), height, 2))
    both = jnp.stack(_overlapped(change(list(rows.swapaxes(0, 1))), width, 3))
    # (column parity, row parity, channels, half height, half width, batch) to interleaved rows and columns
    interleaved = both.transpose(2, 3, 1, 4, 0, 5).reshape(
        gradient.shape[2], 2 * both.shape[3], 2 * both.shape[4], -1
    )
    return (interleaved[:, :height, :width],)


_tiles.defvjp(_tiles_forward, _tiles_backward)


def _strided(padded: Array, count: int, length: int, axis: int) -> list[Array]:
    """Every second element along `axis`, `length` of them, starting at 0, 1, ..., `count` - 1."""
    return [lax.slice_in_dim(padded, i, i + max(2 * length - 1, 0), 2, axis) for i in range(count)]


def _overlapped(parts: Sequence[Array], size: int, axis: int) -> list[Array]:
    """Transposes padding and `_strided`: sums into the even and the odd of an axis of `size` elements."""
    radius, length = len(parts) // 2 - 1, (size + 1) // 2
    sums = []
    for parity in range(2):
        terms = []
        for i in range((parity + radius) % 2, len(parts), 2):
            # Element 2m + parity of the axis is element m + shift of this part.
            shift = (parity + radius - i) // 2
            edges = [(0, 0, 0)] * parts[i].ndim
            edges[axis] = (-shift, length - parts[i].shape[axis] + shift, 0)
            terms.append(lax.pad(parts[i], jnp.zeros((), parts[i].dtype), edges))
        sums.append(sum(terms[1:], terms[0]))
    return sums


def _transformed(matrix: np.ndarray) -> Callable[[Sequence[Array]], list[Array]]:
    """A function that multiplies a list of arrays by a small matrix of 0, 1 and -1, by additions alone."""

    def combine(row: np.ndarray, parts: Sequence[Array]) -> Array:
        terms = [parts[i] if sign > 0 else -parts[i] for i, sign in enumerate(row) if sign]
        return sum(terms[1:], terms[0])

    return lambda parts: [combine(row, parts) for row in matrix]


@jax.custom_vjp
def maximum(quarters: Quarters) -> Result:
    """Maximum over the first axis; its gradient goes to the first maximum."""
    a, b, c, d = quarters
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _maximum_forward(quarters: Quarters) -> tuple[Result, Quarters]:
    return maximum(quarters), quarters


def _maximum_backward(quarters: Quarters, gradient: Result) -> tuple[Quarters]:
    a, b, c, d = quarters
    upper = jnp.maximum(a, b) >= jnp.maximum(c, d)
    above, below = jnp.where(upper, gradient, 0), jnp.where(upper, 0, gradient)
    left, right = a >= b, c >= d
    parts = [jnp.where(left, above, 0), jnp.where(left, 0, above)]
    parts += [jnp.where(right, below, 0), jnp.where(right, 0, below)]
    return (jnp.stack(parts),)


maximum.defvjp(_maximum_forward, _maximum_backward)
