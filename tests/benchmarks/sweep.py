"""Measures how many trials an hour populations train, next to the same trials one by one and in processes.

    python -m tests.benchmarks.sweep [--trials=16] [--populations 1 4 16 64] [--images=60000]

A trial is one epoch of the reference recipe and the scoring of 5,000 held-out images. Each arm is a process
of its own that starts with an empty cache of compiled programs, so that compiling is included; memory is the
peak of that process, of all its processes for the last arm:

    population N    N members at once, by the code that sweeps use
    one by one      the same experiments in one process, by the code that single runs use
    processes       `python -m mmids_cnn.main` a trial, as many at a time as there are cores (or devices)
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

VALIDATION = 5000


def experiments(trials: int) -> list[Any]:
    """As many experiments as asked for; they differ in learning rate and seed."""
    from experiments import base
    from mmids_cnn import config

    configuration = base.get_config()
    configuration.num_epochs = 1
    configuration.dataset.validation_examples = VALIDATION
    configuration.dataset.placement = "resident"
    one = config.resolve(configuration)
    rates = [10 ** (-4 + 2.5 * index / max(trials - 1, 1)) for index in range(trials)]
    return [
        dataclasses.replace(one, seed=seed, optimizer=dataclasses.replace(one.optimizer, learning_rate=rate))
        for seed, rate in enumerate(rates)
    ]


def arm(name: str, size: int, trials: int, images: int) -> dict[str, Any]:
    """Trains in this process; returns what it took."""
    from mmids_cnn.devices import cores

    cores.as_devices()  # before JAX is imported, as the command line does

    from mmids_cnn import data, loop, train
    from mmids_cnn.populations import population

    some = experiments(trials)
    whole = data.load(some[0].dataset)
    some_images = data.Split(*(array[: images - VALIDATION] for array in whole.splits["train"]))
    splits = {"train": some_images, "validation": whole.splits["validation"]}
    dataset = dataclasses.replace(whole, splits=splits)
    population.load = lambda *_: dataset  # type: ignore[assignment]
    seconds: dict[str, float] = {}
    if name == "population":
        for start in range(0, trials, size):
            job = population.Job("", tuple(some[start : start + size]), 1, "validation")
            part = list(population.run(job))[-1]
            _add(seconds, dataclasses.asdict(part.point.seconds))
    else:
        for experiment in some:
            point = list(loop.fit(experiment, dataset, train.init_state(experiment, dataset), scored=True))[
                -1
            ]
            _add(seconds, dataclasses.asdict(point.seconds))
    return {"seconds": seconds, "peak_rss_bytes": _peak(resource.RUSAGE_SELF)}


def measure(name: str, size: int, trials: int, images: int) -> dict[str, Any]:
    """Runs an arm in a process of its own, compiled programs being kept nowhere."""
    own = max(trials, size)
    command = [sys.executable, "-m", "tests.benchmarks.sweep", "--arm", name, "--size", str(size)]
    command += ["--trials", str(own), "--images", str(images)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    elapsed = time.perf_counter() - began
    return _record(name, size, own, elapsed, json.loads(done.stdout.splitlines()[-1]))


def processes(trials: int, at_once: int) -> dict[str, Any]:
    """One command a trial, some at a time; they share a cache of compiled programs, empty at first."""
    with tempfile.TemporaryDirectory() as folder:

        def run(index: int) -> None:
            experiment = experiments(trials)[index]
            flags = {
                "num_epochs": 1,
                "seed": experiment.seed,
                "dataset.validation_examples": VALIDATION,
                "optimizer.learning_rate": experiment.optimizer.learning_rate,
            }
            command = [
                sys.executable,
                "-m",
                "mmids_cnn.main",
                "--config=experiments/base.py",
                "--progress=none",
            ]
            command += [f"--workdir={folder}/{index}", *(f"--config.{k}={v}" for k, v in flags.items())]
            environment = {**os.environ, "XDG_CACHE_HOME": folder, "JAX_NUM_CPU_DEVICES": "1"}
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)

        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(run, range(trials)))
        elapsed = time.perf_counter() - began
    peak = at_once * _peak(resource.RUSAGE_CHILDREN)  # of the largest child, times those at work
    return _record("processes", at_once, trials, elapsed, {"peak_rss_bytes": peak})


def main() -> None:
    """Measures all arms, one after another, then writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=16, help="trials of an arm, at least its population")
    parser.add_argument("--populations", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--images", type=int, default=60_000, help="training images, held-out ones included")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="at once; 0: none"
    )
    parser.add_argument("--record", type=Path, default=HERE / "records" / "sweep_cpu.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    trials, images = arguments.trials, arguments.images
    if arguments.arm:
        print(json.dumps(arm(arguments.arm, arguments.size, trials, images)))
        return
    arms = [measure("population", size, trials, images) for size in arguments.populations]
    arms.append(measure("one by one", 1, trials, images))
    if arguments.processes and images == 60_000:  # the command trains on all of them
        arms.append(processes(trials, arguments.processes))

    from mmids_cnn import data
    from mmids_cnn.runs import provenance

    one = experiments(1)[0]
    kept = {k: v for k, v in provenance.collect(one, data.load(one.dataset)).items() if k != "seed"}
    record = {"provenance": {**kept, "command": sys.orig_argv[1:]}, "images": images, "arms": arms}
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def _record(name: str, size: int, trials: int, elapsed: float, more: dict[str, Any]) -> dict[str, Any]:
    found = {
        "arm": name,
        "size": size,
        "trials": trials,
        "seconds_total": elapsed,
        "trials_per_hour": 3600 * trials / elapsed,
        **more,
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def _add(seconds: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        seconds[name] = math.fsum((seconds.get(name, 0), value))


def _peak(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(who).ru_maxrss * unit


if __name__ == "__main__":
    main()
