"""Times training on a GPU: forms of the layers, flags of the compiler, precision, batches, populations.

    python tests/benchmarks/gpu.py                     # all points, writes records/gpu.json
    python tests/benchmarks/gpu.py --part=3 --budget=300

Each point is a process of its own, as XLA reads its flags once; the next ones import and trace meanwhile. The
record is written after every point, and what no longer fits into the budget is left out. Without a GPU a few
points are run in small, to a file of their own, so that it can be tried anywhere. A plain checkout is enough:
it needs JAX, Flax, Optax and jaxtyping of any version, but neither TFDS nor ml_collections.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

AHEAD = 3  # processes that have begun: the one that measures, and the next ones

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT)]

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
GRAPH = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops=true"
FLAGS = {
    "none": "",
    "deterministic": DETERMINISTIC,
    "exclude": EXCLUDE,
    "graph": f"{DETERMINISTIC} {GRAPH}",
    "graph, exclude": f"{EXCLUDE} {GRAPH}",
    "graph, none": GRAPH,
}
FORMS = ("tiles", "native", "before")
"""What layers are lowered to: `layers.tiles`; `layers.native`; native operations with XLA's own gradients."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is timed: an experiment with some settings, trained for some epochs."""

    part: int
    experiment: str = "base"
    members: int = 1
    form: str = "tiles"
    flags: str = "deterministic"
    precision: str = "float32"
    batch: int = 0  # 0: the experiment's
    what: str = "train"  # or "ceilings", "parity", "trace"
    again: int = 0  # tells equal points apart


def points() -> list[Point]:
    """All points, those that matter most first."""
    found = [Point(1, what="ceilings"), Point(1, what="parity")]
    found += [Point(1, flags="graph"), Point(1, flags="graph", again=1)]
    found += [Point(3, members=16, form=form, flags="graph") for form in FORMS[:2]]
    found += [
        Point(3, "one_epoch", 16, form, "graph", precision)
        for precision in ("float32", "tensorfloat32")
        for form in FORMS[:2]
    ]
    found += [Point(1, what="trace", flags="deterministic"), Point(3, members=16, what="trace")]
    found += [Point(1), Point(1, form="before")]
    found += [Point(2, "one_epoch", form=form, flags="graph") for form in ("tiles", "native")]
    found += [Point(3, members=64, form=form, flags="graph") for form in FORMS[:2]]
    found += [Point(1, form="before", flags="graph")]
    found += [Point(1, flags=flags) for flags in ("graph, none", "graph, exclude", "none", "exclude")]
    found += [Point(2, flags="graph", precision=p) for p in ("tensorfloat32", "bfloat16")]
    found += [Point(1, form="native", flags="graph")]
    found += [Point(2, flags="graph", batch=batch) for batch in (32, 512, 2048)]
    found += [Point(3, members=256, form=form, flags="graph") for form in ("tiles", "native")]
    return found


def stand_in() -> None:
    """Puts a dict with attributes where ml_collections is missing: experiment files need no more of it."""
    try:
        import ml_collections  # noqa: F401
    except ModuleNotFoundError:

        class ConfigDict(dict):
            __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

        module: Any = types.ModuleType("ml_collections")
        module.ConfigDict = ConfigDict
        sys.modules["ml_collections"] = module


def use(form: str) -> None:
    """Lowers layers to a form, on any platform."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from mmids_cnn import layers, losses
    from mmids_cnn.layers import native, tiles

    parts: Any = {"tiles": tiles, "native": native}.get(form)
    if parts is None:
        import optax

        def pool(x: Any) -> Any:
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        def cross_entropy(logits: Any, labels: Any, label_smoothing: Any = 0.0) -> Any:
            logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
            hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            even = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
            return hard + label_smoothing * (even - hard)

        losses.cross_entropy = cross_entropy
        parts = types.SimpleNamespace(
            convolution=native.lax_convolution,
            max_pool=pool,
            conv_pool=lambda x, kernel: pool(native.lax_convolution(x, kernel)),
        )
    layers.native, layers.tiles = parts, parts


def data(small: bool) -> Any:
    """MNIST from the archives beside the package."""
    from mmids_cnn import data as data_lib
    from mmids_cnn.datasets import idx

    found = idx.find("shipped", str(idx.SHIPPED))  # under its own name TFDS is asked for its checksums
    splits = {name: data_lib.Split(*idx.read_split(found, name)) for name in ("train", "test")}
    if small:
        splits = {name: data_lib.Split(x[:2048], y[:2048]) for name, (x, y) in splits.items()}
    return data_lib.Dataset("mnist", splits, 10, "")


def prepared(point: Point, small: bool) -> Any:
    """The experiments of a point's members and their data."""
    from experiments import base, one_epoch
    from mmids_cnn import config

    settings = {"base": base, "one_epoch": one_epoch}[point.experiment].get_config()
    settings.train.precision = point.precision
    settings.batch_size = point.batch or settings.batch_size
    experiment = config.resolve(settings)
    return [dataclasses.replace(experiment, seed=seed) for seed in range(point.members)], data(small)


def trained(point: Point, small: bool, go: Any) -> dict[str, Any]:
    """Seconds to lower, to compile and of each epoch; memory, accuracy and fingerprint."""
    import jax

    from mmids_cnn import feed, score, train
    from mmids_cnn.devices import mesh
    from mmids_cnn.storage import digests

    use(point.form)
    experiments, dataset = prepared(point, small)
    go()
    clock = time.perf_counter
    began = clock()
    if point.members == 1:
        state = train.init_state(experiments[0], dataset)
    else:
        state = train.init_population(experiments, dataset)
    state = jax.device_put(jax.block_until_ready(state), mesh.replicated(state.devices))
    batches = feed.make(experiments[0], dataset.splits["train"])
    started = clock()
    batches.compile(state)
    compiled, epochs = clock(), []
    for epoch in range(4):  # the first calls are made before a graph is
        before = clock()
        state = jax.block_until_ready(batches.advance(state, epoch, 0, batches.steps_per_epoch))
        epochs.append(clock() - before)
    if point.what == "trace":
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                jax.block_until_ready(batches.advance(state, 4, 0, 20))
            return {"steps_traced": 20, "kernels_microseconds": kernels(Path(folder))}
    scorer = score.Scorer(
        state.program.network, ("loss", "accuracy"), {"test": dataset.splits["test"]}, 1000, state.population
    )
    scorer.compile(state.variables)
    before = clock()
    scores: Any = jax.device_get(scorer(state.scored))["test"]
    scoring = clock() - before
    stats = jax.local_devices()[0].memory_stats() or {}
    accuracy = scores.totals["accuracy"] / scores.count
    return {
        "init_seconds": started - began,
        "compile_seconds": compiled - started,
        "steps": batches.steps_per_epoch,
        "epoch_seconds": epochs,
        "ms_a_model_epoch": 1000 * min(epochs[1:]) / point.members,
        "microseconds_a_step": 1e6 * min(epochs[1:]) / batches.steps_per_epoch,
        "scoring_seconds": scoring,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "accuracy": float(accuracy.mean()),
        "fingerprint": digests.fingerprint(jax.device_get(train.trained(state))),
    }


def kernels(folder: Path) -> dict[str, list[float]]:
    """Of a trace, what ran on the device: how often, and microseconds in all, the longest first."""
    import jax

    found: dict[str, list[float]] = {}
    plain = re.compile(r"void |[(<].*")  # a kernel's name without its types and arguments
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines if plane.name.startswith("/device") else ():
                for event in line.events:
                    key = plain.sub("", event.name)[:60]
                    count, total = found.get(key, (0, 0))
                    found[key] = [count + 1, total + event.duration_ns / 1000]
    return dict(sorted(found.items(), key=lambda item: -item[1][1])[:20])


def ceilings(small: bool) -> dict[str, Any]:
    """What the device can do: products of three precisions, a copy."""
    import jax
    import jax.numpy as jnp

    n = 512 if small else 8192

    def seconds(function: Any, *arguments: Any) -> float:
        jax.block_until_ready(function(*arguments))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times.append(time.perf_counter() - began)
        return sorted(times)[2]

    found = {}
    for name, dtype in (("float32", jnp.float32), ("tensorfloat32", jnp.float32), ("bfloat16", jnp.bfloat16)):
        a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) for i in range(2))
        with jax.default_matmul_precision(name):
            found[f"{name}_flop_a_second"] = 2 * n**3 / seconds(jax.jit(jnp.matmul), a, b)
    x = jax.random.normal(jax.random.key(0), (4 * n, n))
    found["copied_bytes_a_second"] = 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)
    empty = jnp.zeros(())
    found["call_seconds"] = seconds(jax.jit(lambda x: x + 1), empty)
    return found


def parity(small: bool) -> dict[str, Any]:
    """How far the device is from the CPU of the same machine: layers from float64, steps from steps."""
    import jax
    import numpy as np

    from mmids_cnn import train
    from mmids_cnn.devices import microbatches
    from mmids_cnn.layers import native, tiles

    gpu, host = jax.local_devices()[0], jax.local_devices(backend="cpu")[0]
    forms = {
        "tiles": tiles.convolution,
        "native": native.convolution,
    }
    found: dict[str, Any] = {}
    for shape in ((8, 28, 1, 16), (8, 14, 16, 32), (8, 7, 32, 32)):
        batch, side, channels, features = shape
        rng = np.random.default_rng(0)
        x = rng.normal(size=(channels, side, side, batch))
        kernel = rng.normal(size=(3, 3, channels, features)) / np.sqrt(9 * channels)
        weights = rng.normal(size=(features, side, side, batch))

        def gradients(form: Any, x: Any, kernel: Any, weights: Any) -> Any:
            with jax.default_matmul_precision("float32"):
                return jax.vjp(form, x, kernel)[1](weights)

        with jax.enable_x64(True):
            on_host = [jax.device_put(a, host) for a in (x, kernel, weights)]
            exact = jax.jit(lambda *a: gradients(native.convolution, *a))(*on_host)
            exact = [np.asarray(a) for a in exact]
        for name, form in forms.items():
            there = [jax.device_put(a.astype(np.float32), gpu) for a in (x, kernel, weights)]
            got = jax.jit(lambda *a, form=form: gradients(form, *a))(*there)
            found[f"{name} {shape}"] = [
                float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))
                for a, b in zip(got, exact, strict=True)
            ]
    experiments, dataset = prepared(Point(1), small)
    state = train.init_state(experiments[0], dataset)
    state = state.replace(program=dataclasses.replace(state.program, cut=microbatches.WHOLE))
    split, size = dataset.splits["train"], experiments[0].batch_size
    step = jax.jit(lambda state, batch: train.train_step(state, batch)[0])
    ends = {}
    for name, device in (("device", gpu), ("cpu", host)):
        at = jax.device_put(jax.device_get(state), device)
        for i in range(10):
            part = slice(i * size, (i + 1) * size)
            examples = train.Batch(split.images[part], split.labels[part], np.ones(size, bool))
            at = step(at, jax.device_put(examples, device))
            if i in (0, 9):
                ends[name, i] = jax.device_get(at.params)
    for i in (0, 9):
        far = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ends["device", i], ends["cpu", i])
        found[f"parameters after {i + 1} steps"] = max(jax.tree.leaves(far))
    return found


def child(point: Point, small: bool) -> None:
    """Measures a point as soon as it is its turn; prints what it found."""
    stand_in()
    import jax

    def go() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    if point.what in ("train", "trace"):
        found = trained(point, small, go)
    else:
        go()
        found = ceilings(small) if point.what == "ceilings" else parity(small)
    print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__, **found}), flush=True)


def start(point: Point, small: bool, errors: Path) -> subprocess.Popen[str]:
    """The process of a point."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "" if small else FLAGS[point.flags],
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
    }
    if point.what == "parity" and not small:
        environment["JAX_PLATFORMS"] = "cuda,cpu"
    command = [sys.executable, __file__, "--point", json.dumps(dataclasses.asdict(point))]
    return subprocess.Popen(
        [*command, *(["--small"] if small else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=open(errors, "w"),
        text=True,
        env=environment,
    )


def measure(process: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """Lets a process go, and returns what it found, or how it failed."""
    assert process.stdin and process.stdout
    began = time.perf_counter()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("\n")
    try:
        out, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"failed": f"no result after {limit:.0f} s"}
    last = out.strip().splitlines()[-1:] or ["ready"]
    if process.returncode or last == ["ready"]:
        return {"failed": f"exit status {process.returncode}"}
    return json.loads(last[0]) | {"wall_seconds": time.perf_counter() - began}


def platform() -> str:
    """What JAX would compute on, asked of another process, as this one leaves the device alone."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    """Measures the points of some parts, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", default="1,2,3", help="of the points, as 1,3")
    parser.add_argument("--budget", type=float, default=540, help="seconds, after which no point is begun")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a point")
    parser.add_argument("--record", type=Path, help="default: records/gpu.json, without a GPU a new file")
    parser.add_argument("--only", default="", help="points whose description has this text")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        child(Point(**json.loads(arguments.point)), arguments.small)
        return
    began, parts, small = time.perf_counter(), set(map(int, arguments.part.split(","))), platform() != "gpu"
    todo = points()
    if small:
        print("no GPU is here: a few points in small, whose times say nothing of one")
        todo = [point for point in todo if point.what != "train" and point.members == 1]
        todo += [Point(1, flags="none"), Point(3, members=4, flags="none")]
    todo = [point for point in todo if point.part in parts and arguments.only in str(point)]
    folder = Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    record_file = arguments.record or (folder if small else HERE / "records") / "gpu.json"
    record: dict[str, Any] = {"points": []}
    if record_file.exists():
        record = json.loads(record_file.read_text())
    started: list[Any] = []
    for at, point in enumerate(todo):
        if time.perf_counter() - began > arguments.budget:
            print(f"left out, as the budget is spent: {len(todo) - at} points")
            break
        for index in range(len(started), min(len(todo), at + AHEAD)):
            started.append(start(todo[index], small, folder / f"{index}.txt"))
        found = measure(started[at], arguments.limit)
        if "failed" in found:
            found["error"] = (folder / f"{at}.txt").read_text()[-600:]
        row = {**dataclasses.asdict(point), "xla_flags": FLAGS[point.flags], **found}
        row |= {"finite_check": "one array", "date": datetime.date.today().isoformat()}
        record["points"].append(row)
        record_file.write_text(json.dumps(record, indent=1) + "\n")
        shown = ("ms_a_model_epoch", "microseconds_a_step", "compile_seconds", "accuracy", "failed", "error")
        short = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items() if k in shown}
        own = {k: v for k, v in dataclasses.asdict(point).items() if v != getattr(Point(0), k)}
        print(f"{time.perf_counter() - began:5.0f} s", own, short or found, flush=True)
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    print(f"record: {record_file}")


if __name__ == "__main__":
    main()
