"""The networks that `config.model.name` can name, one small file each. Importing this imports no JAX.

A network is any Linen module that is called as `module(images, *, train=False, valid=None)`: uint8 images
`[n, height, width, channels]` in, logits `[n, classes]` out, where `valid` is false the example is padding.
A batch is cut into slices, on a CPU of 32 examples, unless the network has other variables than parameters
(`batch_stats` for one): without such state, no example may depend on the others of its batch.
"""

import dataclasses
from typing import NamedTuple

from mmids_cnn.settings import dotted
from mmids_cnn.settings.schema import Leaf, Rule, leaf

_CHANNELS = "a non-empty tuple of integers from 1 to 2**16, such as (16, 32, 32)"


def _are_channels(value: tuple[int, ...]) -> bool:
    return len(value) > 0 and all(1 <= c <= 2**16 for c in value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNet:
    """The rules of the fields of `conv_net.ConvNet`."""

    channels: tuple[int, ...] = leaf(_CHANNELS, _are_channels)
    kernel_size: int = leaf("an odd integer from 1 to 99", lambda value: 1 <= value <= 99 and value % 2 == 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormNet:
    """The rules of the fields of `norm_net.NormNet`."""

    channels: tuple[int, ...] = leaf(_CHANNELS, _are_channels)
    depths: tuple[int, ...] = leaf(
        "a tuple of as many integers from 1 to 100, such as (1, 2, 2)",
        lambda value: all(1 <= depth <= 100 for depth in value),
    )
    flatten: bool = leaf("true or false", lambda value: True, before=False)
    dropout: float = leaf("a number with 0 <= d < 1", lambda value: 0 <= value < 1)


class Network(NamedTuple):
    """Where a network is found, and the rules of the fields that are its settings."""

    source: str
    fields: type


NETWORKS = {
    "conv_net": Network("mmids_cnn.networks.conv_net:ConvNet", ConvNet),
    "norm_net": Network("mmids_cnn.networks.norm_net:NormNet", NormNet),
}

NAME = Leaf(
    str,
    Rule(
        f"one of {', '.join(map(repr, NETWORKS))}, or 'module:attribute' of your own",
        lambda value: value in NETWORKS or dotted.is_dotted(value),
    ),
)
