"""Times whole commands of this project, and what one step moves through memory; for `bench.py`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from child import Child

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
BASE = ("-m", "mmids_cnn.main", "--config=experiments/base.py", "--progress=plain")
SHORT = ("--config.num_epochs=1", "--config.report=False")
LOAD = """
import time
from experiments import base
from mmids_cnn import config, data
chosen = config.resolve(base.get_config()).dataset
begin = time.perf_counter()
data.load(chosen)
print(time.perf_counter() - begin)
"""
STEP = """
import json
import jax, jax.numpy as jnp, numpy as np
from experiments import base
from mmids_cnn import config, data, train
experiment = config.resolve(base.get_config())
images, labels = np.zeros((128, 28, 28, 1), np.uint8), np.arange(128, dtype=np.int32) % 10
split = data.Split(images, labels)
state = train.init_state(experiment, data.Dataset("mnist", {"train": split, "test": split}, 10, ""))
batch = train.Batch(*(jnp.asarray(x) for x in (images, labels, np.ones(128, bool))))
cut = state.program.cut
found = jax.jit(train.train_step).lower(state, batch).compile().cost_analysis()
once = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
counted, least = found["bytes accessed"], 2 * once + images.nbytes
print(json.dumps({"of_a_slice": counted, "slices": cut.groups * cut.slices, "least": least}))
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process at the root of the checkout, that has to end well."""
    command, variables = [sys.executable, *arguments], os.environ | CPU_ONLY | environment
    return subprocess.run(command, cwd=ROOT, env=variables, check=True, capture_output=True, text=True)


def answers() -> dict[str, list[float]]:
    """Seconds that the command takes for what needs no JAX: its help, and a refusal."""
    asked = {"help": "--help", "error": "--config=missing.py"}
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(5):
        for name, argument in asked.items():
            begin = time.perf_counter()
            command = [sys.executable, "-m", "mmids_cnn.main", argument]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def runs(times: int) -> dict[str, list[float]]:
    """Seconds, each measured so many times.

    `fresh` is a run of the reference recipe with nothing prepared and empty caches, `cold` and `warm` its
    first step after the command with the data prepared, with empty caches and full ones, `importing` what
    a whole run imports, `preparing` MNIST made ready.
    """
    seconds: dict[str, list[float]] = {}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in _runs_in(folder).items():
                seconds.setdefault(name, []).append(value)
    return seconds


def _runs_in(folder: str) -> dict[str, float]:
    places = {"TFDS_DATA_DIR": f"{folder}/data", "XDG_CACHE_HOME": f"{folder}/cache"}
    begin = time.perf_counter()
    python(*BASE, f"--workdir={folder}/fresh", **places)
    found = {"fresh": time.perf_counter() - begin}
    shutil.rmtree(f"{folder}/cache")
    for name in ("cold", "warm"):
        lines = python(*BASE, f"--workdir={folder}/{name}", *SHORT, **places).stdout.splitlines()
        (line,) = [line for line in lines if line.startswith("first step after ")]
        found[name] = float(line.split()[3])
    said = python("-X", "importtime", *BASE, f"--workdir={folder}/imports", *SHORT, **places).stderr
    lines = [line.partition(":")[2] for line in said.splitlines() if line.startswith("import time:")]
    found["importing"] = sum(float(line.split("|")[0]) for line in lines[1:]) / 1e6
    found["preparing"] = float(python("-c", LOAD, TFDS_DATA_DIR=f"{folder}/again").stdout)
    return found


def second_core(command: Sequence[str], rounds: int) -> list[float]:
    """How many times as many images a second two cores train as one does, in interleaved rounds."""
    one = Child(["taskset", "-c", "0", *command], CPU_ONLY)
    two = Child(["taskset", "-c", "0,1", *command], CPU_ONLY)
    times = [one.ask("epoch")["seconds"] / two.ask("epoch")["seconds"] for _ in range(rounds)]
    one.quit()
    two.quit()
    return times


def step_bytes() -> dict[str, Any]:
    """Bytes that a step's operations read and write, as XLA counts them: of one slice, and how many slices.

    The least that has to be moved is a batch's images in, and parameters and moments in and out.
    """
    return json.loads(python("-c", STEP).stdout)
