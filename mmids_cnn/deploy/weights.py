"""Weights as a safetensors file, which `reader` reads by NumPy alone.

The names of the tensors are their collection and their path in the network, `params/Dense_0/kernel`, with
`member_0/` and so on before them where there are several networks. The layouts are those of JAX: `LAYOUT`,
which is in the metadata as `layout`. Beside it is `networks`, a JSON list of an object a network: its prefix,
its name and its fields.

The file is written here, not by the package safetensors, which writes metadata in another order each time.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import serialization

from mmids_cnn import model, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.storage import digests

LAYOUT = (
    "images [n, height, width, channels], uint8, divided by 255; kernels of convolutions [height, width, in, "
    "out], of dense layers [in, out]; a dense layer takes an image in the order height, width, channels"
)

_KINDS = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U", "bool": "BOOL"}


def fingerprint(variables: model.Variables) -> str:
    """SHA-256 over variables as a run's `result.json` has it, where the run kept no average beside them."""
    saved = serialization.to_state_dict(variables)
    others = {name: saved[name] for name in saved if name != "params"}
    return digests.fingerprint(train.trained_of({"params": saved["params"], "collections": others}))


def encode(
    networks: Sequence[tuple[str, model.Network, model.Variables]], metadata: Mapping[str, str]
) -> bytes:
    """The content of a safetensors file.

    Args:
      networks: the name of each, as in `config.model.name`, itself, and its variables.
      metadata: texts by name, beside those that are named above.
    """
    tensors, about = dict[str, np.ndarray](), []
    for index, (name, network, variables) in enumerate(networks):
        prefix = f"member_{index}/" if len(networks) > 1 else ""
        fields = {
            field.name: getattr(network.module, field.name) for field in dataclasses.fields(network.module)
        }
        own = {key: value for key, value in fields.items() if key not in ("parent", "name", "num_classes")}
        about.append({**own, "prefix": prefix, "name": name})
        tensors |= {prefix + path: x for path, x in digests.leaves(serialization.to_state_dict(variables))}
    texts = {**metadata, "layout": LAYOUT, "networks": json.dumps(about)}
    header, content = dict[str, Any]({"__metadata__": texts}), b""
    for name, array in sorted(tensors.items(), key=lambda pair: -pair[1].dtype.itemsize):  # aligned, so
        found = array.astype(array.dtype.newbyteorder("<")).tobytes()
        at = [len(content), len(content) + len(found)]
        header[name] = {"dtype": _kind(name, array), "shape": list(array.shape), "data_offsets": at}
        content += found
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words + content


def _kind(name: str, array: np.ndarray) -> str:
    letters, bits = re.fullmatch(r"(\D+)(\d*)", array.dtype.name).groups()  # type: ignore[union-attr]
    if letters not in _KINDS:
        raise ConfigError(
            f"model.name: expected variables that safetensors can hold, found {array.dtype} in {name}"
        )
    return _KINDS[letters] + bits
