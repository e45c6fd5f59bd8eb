"""Compiles training and scoring for an H100 or a TPU v5e that is not here, and counts what a step does.

    python tests/benchmarks/programs.py gpu    # writes records/gpu_program.json
    python tests/benchmarks/programs.py tpu    # writes records/tpu_program.json

JAX's own compilers, as wheels for the version of JAX that is installed, are put into .venv-programs; nothing
else of CUDA is needed. What a GPU launches is read from the list of thunks that XLA dumps. A TPU keeps arrays
in tiles, of 8 by 128 numbers mostly: what is not full is padding, which is read from the layouts. Nothing is
run: no kernel is timed, nor does XLA try which one is fastest.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SITE = ROOT / ".venv-programs"
GRAPH = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
NO_TRITON = "--xla_gpu_enable_triton_gemm=false"  # its products cannot be chosen without trying them
PROGRAMS = {  # what is compiled, of which experiment, for how many models (0: one alone), with which flags
    "gpu": [
        ("steps", "base", 0, ""),
        ("steps", "base", 0, GRAPH),
        ("steps", "one_epoch", 0, GRAPH),
        ("steps", "base", 16, GRAPH),
        ("scorer", "base", 0, GRAPH),
    ],
    "tpu": [
        ("scorer", "base", 0, ""),
        ("steps", "base", 0, ""),
        ("steps", "one_epoch", 0, ""),
        ("steps", "base", 16, ""),
    ],
}
TOPOLOGY = "v5e:2x2"  # the smallest there is; one of its chips is compiled for


def install(kind: str) -> Path:
    """Puts a compiler into a folder of `SITE`, unless it is there; no package that it asks for."""
    version = importlib.metadata.version("jax")
    wanted = [f"jax-cuda12-pjrt=={version}", f"jax-cuda12-plugin=={version}"]
    if kind == "tpu":
        named = (Requirement(one) for one in importlib.metadata.requires("jax") or ())
        wanted = [f"{one.name}{one.specifier}" for one in named if one.name == "libtpu"]
    site, done = SITE / kind, SITE / f"{kind}-{version}"
    if not done.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--upgrade", "--target", str(site), *wanted], check=True)
        done.touch()
    return site


def device_of(kind: str) -> Any:
    """The device to compile for, as its compiler describes it."""
    from jax.experimental import topologies

    if kind == "tpu":
        return topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices[0]
    config = (HERE / "h100.txtpb").read_text()  # the chip's facts, a GpuTargetConfigProto of XLA
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology="1x1x1").devices[0]


def lowered(what: str, name: str, members: int, device: Any) -> Any:
    """The steps of an experiment on MNIST's shapes, or its scorer, lowered for a device."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import SingleDeviceSharding

    from mmids_cnn import config, data, feed, optimizer, score, sums, train
    from mmids_cnn.console import experiment_file

    jax.default_backend = lambda: device.platform  # how a batch is cut follows the backend
    experiment = config.resolve(experiment_file.load(name))
    split = data.Split(np.empty((60_000, 28, 28, 1), np.uint8), np.zeros(60_000, np.int32))
    dataset = data.Dataset("mnist", {"train": split}, 10, "")
    program = train.program(experiment, dataset)
    init = functools.partial(train.init_from, program=program, image_shape=dataset.image_shape)
    h, make = optimizer.hyperparams(experiment), init
    if members:
        h, make = jax.tree.map(lambda x: jnp.stack([x] * members), h), jax.vmap(init)
    state, sharding = jax.eval_shape(make, h), SingleDeviceSharding(device)
    number, shape = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct
    if what == "steps":
        length = -(-60_000 // experiment.batch_size) * experiment.batch_size
        order = shape((members, length) if members else (length,), np.int32)
        steps = feed.resident_steps(experiment.batch_size, members or None)
        function = jax.jit(steps, donate_argnums=0)
        arguments: Any = (state, order, *map(_shape_of, split), number, number)
    else:
        total = jax.tree.map(_shape_of, sums.zero(experiment.eval.metrics, 10))
        test = shape((10_000, 28, 28, 1), np.uint8), shape((10_000,), np.int32)
        function = score._adding(program.network, experiment.eval.metrics, 1000, None, 1)
        arguments = (state.variables, total, *test, *[number] * 4)
    there = jax.tree.map(lambda x: shape(x.shape, x.dtype, sharding=sharding), arguments)
    return function.trace(*there).lower(lowering_platforms=("tpu" if device.platform == "tpu" else "cuda",))


def _shape_of(array: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def launches(thunks: str) -> dict[str, int]:
    """What the innermost loop of a list of thunks launches, and how often the host has to speak for it."""
    inside: list[str] = []
    start = next((m for m in re.finditer(r"^( *)body:$", thunks, re.MULTILINE)), None)
    if start is None:
        return {}
    for line in thunks[start.end() :].splitlines()[1:]:
        if len(line) - len(line.lstrip()) <= len(start[1]):
            break
        inside.append(line)
    kinds = [(len(line) - len(line.lstrip()), match[1]) for line in inside if (match := _THUNK.match(line))]
    outer = min((indent for indent, _ in kinds), default=0)
    captured = re.search(r"^ +\d+: kWhile", thunks[: start.start()], re.MULTILINE)  # inside of a graph
    return {
        "launches": sum(kind not in ("kCommandBuffer", "kWhile", "kConditional") for _, kind in kinds),
        "host_submissions": 0 if captured else sum(indent == outer for indent, _ in kinds),
    }


_THUNK = re.compile(r" *\d+: (k\w+)")


def operations(text: str) -> dict[str, Any]:
    """What a step of a TPU's program consists of: the body of its innermost loop, or all, where it has none.

    `padding` is how often the arrays that its operations make, with their tiles filled up, hold what the
    arrays themselves do; the fusions of `convolution_layouts` are those that have a convolution in them.
    """
    bodies = {one[1]: one[0] for one in _COMPUTATION.finditer(text)}
    convolutions = {name for name, body in bodies.items() if " convolution(" in body}
    loops = [bodies[name] for name in re.findall(r"body=%?([\w.-]+)", text) if name in bodies]
    inner = [one for one in loops if "body=" not in one] or [text[text.index("ENTRY") :]]
    made = [one for one in _MADE.finditer(max(inner, key=len)) if one["what"] not in _NO_OPERATIONS]
    numbers = [_numbers(one) for one in made]
    return {
        "operations": len(made),
        "fusions": sum(one["what"] == "fusion" for one in made),
        "copies": sum(one["what"].startswith("copy") for one in made),
        "padding": sum(filled for _, filled in numbers) / max(sum(held for held, _ in numbers), 1),
        "convolution_layouts": [
            f"{one['type']}[{one['shape']}]{{{one['order']}}}"
            for one in made
            if one["what"] == "convolution" or one["calls"] in convolutions
        ],
    }


def _numbers(made: re.Match[str]) -> tuple[int, int]:
    """How many numbers an array holds, and how many with its tiles filled up."""
    shape, order, tile = (
        [int(size) for size in (made[key] or "").split(",") if size] for key in ("shape", "order", "tile")
    )
    sizes = [shape[axis] for axis in order]  # the fastest first, a tile's are the other way round
    tiles = [*reversed(tile), *[1] * len(sizes)]
    return math.prod(shape), math.prod(-(-size // one) * one for size, one in zip(sizes, tiles, strict=False))


_NO_OPERATIONS = ("get-tuple-element", "parameter", "bitcast", "tuple", "constant")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \([^\n]*\{$.*?^\}", re.MULTILINE | re.DOTALL)
_MADE = re.compile(
    r"^  (?:ROOT )?%\S+ = (?P<type>\w+)\[(?P<shape>[\d,]*)\]\{(?P<order>[\d,]*)"
    r"(?::T\((?P<tile>[\d,]+)\)[^}]*)?\} (?P<what>[\w-]+)\([^\n]*?(?:calls=%?(?P<calls>[\w.-]+)[^\n]*)?$",
    re.MULTILINE,
)


def compiled(kind: str, what: str, name: str, members: int, dump: Path) -> dict[str, Any]:
    """Compiles one program and counts."""
    device, began = device_of(kind), time.perf_counter()
    program = lowered(what, name, members, device)
    traced = time.perf_counter()
    made = program.compile()
    text, seconds = made.as_text(), time.perf_counter() - traced
    found: dict[str, Any] = {
        "device": device.device_kind,
        "lower_seconds": traced - began,
        "compile_seconds": seconds,
        "temporary_bytes": made.memory_analysis().temp_size_in_bytes,
        "sorts": len(re.findall(r"= \S+ sort\(", text)),
        "scatters": len(re.findall(r"= \S+ (?:scatter|select-and-scatter)\(", text)),
        "convolutions_with_large_windows": len(re.findall(r"window=\{size=(?:\d{2,}|[7-9])x", text)),
    }
    if kind == "tpu":
        return found | operations(text)
    files = sorted(dump.glob("*thunk_sequence_after*.txt"), key=lambda file: file.stat().st_size)
    return found | launches(files[-1].read_text())


def main() -> None:
    """Compiles all programs, each in a process of its own; writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=PROGRAMS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, name, members = arguments.one.split(",")
        print(json.dumps(compiled(arguments.kind, what, name, int(members), arguments.dump)))
        return
    site, rows = install(arguments.kind), []
    for what, name, members, flags in PROGRAMS[arguments.kind]:
        with tempfile.TemporaryDirectory() as dump:
            environment = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}", "JAX_PLATFORMS": "cpu"}
            if arguments.kind == "gpu":
                own = f"--xla_dump_to={dump} --xla_gpu_autotune_level=0 {NO_TRITON} {flags}"
                environment["XLA_FLAGS"] = own
            else:
                environment["TPU_SKIP_MDS_QUERY"] = "1"  # nothing is asked of a cloud
            command = [sys.executable, __file__, arguments.kind, f"--one={what},{name},{members}"]
            command += [f"--dump={dump}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{what} of {name}: {done.stderr.strip().splitlines()[-1]}")
        row = {"program": what, "experiment": name, "members": members, "flags": flags}
        rows.append(row | json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
        record = {"jax": importlib.metadata.version("jax"), "date": datetime.date.today().isoformat()}
        path = HERE / "records" / f"{arguments.kind}_program.json"
        path.write_text(json.dumps(record | {"programs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
