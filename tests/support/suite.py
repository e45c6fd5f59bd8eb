"""What all tests share beside fixtures: checks of shapes and dtypes at every call, types, digests of trees.

To be imported before anything else of the package, which the checks have to see first.
"""

import ast
import hashlib
import importlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import install_import_hook

from tests.support.typecheck import checked

ROOT = Path(__file__).parents[2]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# JAX writes compiled programs in place, but locks a cache whose size is limited: no test, and no command
# of one, reads half an entry of another. The size is more than that of all programs, which are not counted
# each time that one is added (below).
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**33))

TYPECHECKED = (
    "config",
    "data",
    "datasets",
    "errors",
    "feed",
    "keys",
    "layers",
    "loop",
    "losses",
    "metrics",
    "model",
    "optimizer",
    "score",
    "storage.files",
    "train",
)


CHECKER = f"{checked.__module__}.{checked.__name__}"
with install_import_hook([f"mmids_cnn.{name}" for name in TYPECHECKED], CHECKER):
    import jax  # here, because the platform has to be chosen before
    from jax._src import lru_cache

    from mmids_cnn import config, train
    from mmids_cnn.devices import mesh

    for name in TYPECHECKED:  # their shapes and dtypes are checked at every call
        importlib.import_module(f"mmids_cnn.{name}")


def evict_nothing(self: object, *, additional_size: int = 0) -> None:
    """Stands for JAX's search for old programs, which reads the age of each."""


lru_cache.LRUCache._evict_if_needed = evict_nothing  # type: ignore[method-assign]

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
Vary = Callable[..., config.Experiment]
BatchOf = Callable[..., train.Batch]


_STEP = jax.jit(train.train_step)


def step(state: train.TrainState, batch: train.Batch) -> Any:
    """`train_step`, compiled once for all tests, with the state on all devices as a run has it."""
    return _STEP(jax.device_put(state, mesh.replicated(state.program.cut.devices)), batch)


def undocumented(module: str, printed: str) -> set[str]:
    """Keys of the objects that a command has printed, one a line, that its `--help` does not have."""
    said = ast.get_docstring(ast.parse((ROOT / "mmids_cnn" / f"{module}.py").read_text())) or ""
    return {key for line in printed.splitlines() for key in json.loads(line) if f"`{key}`" not in said}


def digests(tree: Any) -> dict[str, str]:
    """A digest of the bits of each leaf: trees with equal digests are equal, and what differs is short."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(x).tobytes()).hexdigest()[:12]
        for path, x in leaves
    }
