"""How training goes faster with processes, and a model of it that is measured here and asked about elsewhere.

    python tests/benchmarks/processes.py            # writes processes_cpu.json
    python tests/benchmarks/processes.py --quick    # one round; writes only with --record

Each process is the real command, kept on a core of its own. *Strong*: a batch of 128 shared out; *weak*: 128
images for each process. A step is modelled as

    seconds = fixed + images of a process * each + (processes > 1) * (latency + bytes / rate)

`fixed` and `each` are the line through the steps of two processes that train side by side, each a model of
its own, at batches of 64 and 128: cores that share caches and memory are slower than one alone. `latency` and
`rate` are the line through exchanges of a small and of a large array between two processes, in a loop with a
product in each turn, less the same loop without; each wire has its own. Bytes are those that a process
receives: a sum for each group of examples that others compute.
What the model says of two processes is compared with what they took; of other machines it is a forecast,
whose constants are named with their source. *Away* is strong again, on two hosts with a wire between them
that takes its time and loses packets (network namespaces, for which one has to be root; else left out).
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench import ARCHIVES, ROOT
from record import machine, summary
from table import print_table, processes_rows

sys.path.append(str(ROOT))
from tests.support import together

HERE = Path(__file__).resolve().parent
PARAMETERS = 16_938  # of the reference network
IMAGES = 60_000
SHORT, LONG = 1_000, 100_000  # floats of the two exchanges; a step has 17,000 for each group of examples
TURNS = 20  # of a loop that exchanges something after each product
RUNS = {  # processes and images of a batch
    "alone": (1, 128),
    "alone, half a batch": (1, 64),
    "beside another": (1, 128),
    "beside another, half a batch": (1, 64),
    "strong": (2, 128),
    "weak": (2, 256),
}
AWAY = {"strong, 1 ms away": (0.001, 0.0), "strong, 1 ms away, 1 % lost": (0.001, 0.01)}  # delay, loss
# Other machines: an epoch of one H200 takes 111.7 ms at batch 128 (gpu.json); its products alone, at the rate
# measured there, 0.53 us an image. An exchange over NVLink and one over 100 Gb/s Ethernet are set to
# figures of that order, which nobody measured here.
EACH_GPU = 3 * 2 * 4.30e6 / 49e12
FORECASTS = {
    "8 GPUs of one machine": {
        "processes": 8,
        "fixed": 238e-6 - 128 * EACH_GPU,
        "each": EACH_GPU,
        "latency": 20e-6,
        "rate": 200e9,
    },
    "32 machines of one GPU": {
        "processes": 32,
        "fixed": 238e-6 - 128 * EACH_GPU,
        "each": EACH_GPU,
        "latency": 100e-6,
        "rate": 10e9,
    },
}


def modelled(processes: int, batch_size: int, c: dict[str, float]) -> float:
    """Seconds of a step; see above."""
    groups = max(processes, c.get("groups", processes))
    received = 4 * PARAMETERS * groups * (processes - 1) / processes
    exchange = c["latency"] * math.ceil(math.log2(processes)) + received / c["rate"] if processes > 1 else 0
    return c["fixed"] + batch_size / processes * c["each"] + exchange


def prediction(name: str, constants: dict[str, float]) -> float:
    """What the model says of a run."""
    processes, batch_size = RUNS.get(name, RUNS["strong"])
    return modelled(processes, batch_size, constants | {"groups": 8 if batch_size > 128 else 4})


def line(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Height at 0 and slope of the line through two points."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return first[1] - slope * first[0], slope


def start(
    module: list[str], count: int, folder: Path, hosts: tuple[str, ...] = (), core: int = 0
) -> list[subprocess.Popen[str]]:
    """The processes of a group, on a core each from `core` on, and on a host each where some are given."""
    coordinator = f"{'10.77.0.1' if hosts else '127.0.0.1'}:{random.SystemRandom().randrange(20_000, 30_000)}"
    group = ["--coordinator", coordinator, "--processes", str(count), "--process"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    started = []
    for process in range(count):
        command = ["ip", "netns", "exec", hosts[process]] if hosts else []
        command += ["taskset", "-c", str(core + process), sys.executable, *module]
        command += [*group, str(process)] if count > 1 else []
        started.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        )
    return started


def step_seconds(
    count: int, batch_size: int, folder: Path, epochs: int, hosts: tuple[str, ...] = (), core: int = 0
) -> tuple[float, str]:
    """Seconds of a step of the real command, and the fingerprint that it ends with."""
    workdir = Path(tempfile.mkdtemp(dir=folder))
    command = ["-m", "mmids_cnn.main", f"--config={ROOT}/experiments/base.py", f"--workdir={workdir}"]
    command += [f"--config.batch_size={batch_size}", f"--config.num_epochs={epochs}"]
    command += ["--config.eval.every_epochs=0", "--config.report=False", "--progress=none"]
    command += ["--config.checkpoint.every_epochs=0", f"--config.dataset.archives={ARCHIVES}"]
    for process in start(command, count, folder, hosts, core):
        process.communicate()
        if process.returncode:
            raise SystemExit(f"processes: {' '.join(command)} ended with {process.returncode}")
    result = json.loads((workdir / "result.json").read_text())
    return result["seconds/train"] / result["step"], result["fingerprint"][:16]


def beside_another(count: int, batch_size: int, folder: Path, epochs: int) -> tuple[float, str]:
    """The same of two that train at once, each on a core and a model of its own: their mean."""
    one = functools.partial(step_seconds, count, batch_size, folder, epochs)
    with ThreadPoolExecutor(2) as pool:
        (first, fingerprint), (second, _) = pool.map(lambda core: one(core=core), range(2))
    return (first + second) / 2, fingerprint


def exchange_seconds(folder: Path, hosts: tuple[str, ...] = ()) -> dict[int, float]:
    """Seconds in which two processes give each other arrays of so many floats."""
    first, second = start([str(Path(__file__)), "--exchange"], 2, folder, hosts)
    said, _ = first.communicate()
    second.communicate()
    return {int(size): seconds for size, seconds in json.loads(said.splitlines()[-1]).items()}


def exchange(arguments: argparse.Namespace) -> None:
    """What a process of `exchange_seconds` does."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)
    row = Mesh(np.array(jax.devices()), ("devices",))
    everywhere = NamedSharding(row, PartitionSpec())

    def loop(exchanged: jax.Array, multiplied: jax.Array, exchanges: bool) -> Any:
        def turn(_: Any, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            exchanged, multiplied = both
            multiplied = jnp.tanh(multiplied @ multiplied)  # a millisecond or two
            exchanged = exchanged + multiplied[0, 0]
            return (lax.all_gather(exchanged, "devices").mean(0) if exchanges else exchanged), multiplied

        return lax.fori_loop(0, TURNS, turn, (exchanged, multiplied))

    found = {}
    for size in (SHORT, LONG):
        given = [jax.device_put(np.ones(shape, np.float32), everywhere) for shape in ((size,), (512, 512))]
        seconds = []
        for exchanges in (False, True):
            mapped = jax.shard_map(
                functools.partial(loop, exchanges=exchanges),
                mesh=row,
                in_specs=PartitionSpec(),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
            run, times = jax.jit(mapped), []
            for _ in range(12):
                began = time.perf_counter()
                jax.block_until_ready(run(*given))
                times.append((time.perf_counter() - began) / TURNS)
            seconds.append(statistics.mean(times[2:]))  # with those that had to wait for a lost packet
        found[size] = seconds[1] - seconds[0]
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of one epoch, to try it out")
    parser.add_argument("--record", type=Path, help="JSON to write")
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    for name, kind in (("coordinator", str), ("processes", int), ("process", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments, console = parser.parse_args(), Console()
    if arguments.exchange:
        exchange(arguments)
        return
    rounds, epochs = (1, 1) if arguments.quick else (arguments.rounds, 2)
    steps: dict[str, list[float]] = {name: [] for name in RUNS}
    exchanges: dict[str, list[dict[int, float]]] = {"": []}  # of each wire, "" being none
    fingerprints: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        task = progress.add_task("rounds", total=rounds * (len(RUNS) + 2 * len(AWAY) + 1))
        for turn in range(rounds):
            for name in random.Random(turn).sample(list(RUNS), len(RUNS)):
                timed = beside_another if name.startswith("beside") else step_seconds
                seconds, fingerprints[name] = timed(*RUNS[name], Path(folder), epochs)
                steps[name].append(seconds)
                progress.advance(task)
            for name, (delay, loss) in AWAY.items():
                with together.linked(delay, loss) as hosts:
                    if hosts:
                        seconds, fingerprints[name] = step_seconds(2, 128, Path(folder), 1, hosts)
                        steps.setdefault(name, []).append(seconds)
                        exchanges.setdefault(name, []).append(exchange_seconds(Path(folder), hosts))
                progress.advance(task, 2)
            exchanges[""].append(exchange_seconds(Path(folder)))
            progress.advance(task)
    whole, half = (statistics.median(steps[name]) for name in list(RUNS)[2:4])
    fixed, each = line((64, half), (128, whole))
    constants = {}
    for name, found in exchanges.items():
        short, long = (statistics.median(one[size] for one in found) for size in (SHORT, LONG))
        latency, a_byte = line((4 * SHORT, short), (4 * LONG, long))
        constants[name] = {"fixed": fixed, "each": each, "latency": latency, "rate": 1 / a_byte}
    runs: list[dict[str, Any]] = [
        {
            "name": name,
            "processes": RUNS.get(name, RUNS["strong"])[0],
            "batch_size": RUNS.get(name, RUNS["strong"])[1],
            "step_seconds": summary(values),
            "model_seconds": prediction(name, constants.get(name, constants[""])),
            "fingerprint": fingerprints[name],
        }
        for name, values in steps.items()
    ]
    forecasts = [
        {
            "name": name,
            "processes": int(other["processes"]),
            "batch_size": size,
            "alone_seconds": modelled(1, size, other),
            "model_seconds": modelled(int(other["processes"]), size, other),
        }
        for name, other in FORECASTS.items()
        for size in (128, 128 * int(other["processes"]))
    ]
    record = {
        "machine": machine(),
        "settings": {"rounds": rounds, "quick": arguments.quick, "epochs": epochs},
        "constants": constants,
        "runs": runs,
        "forecasts": forecasts,
    }
    print_table(console, *processes_rows(record))
    path = arguments.record or (None if arguments.quick else HERE / "records" / "processes_cpu.json")
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
