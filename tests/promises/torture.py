"""Kills runs at random moments until they are done, damages files at random, and counts what went wrong.

    ROUNDS=100 make torture

A round is one run of a small experiment: killed with SIGKILL up to four times, at moments drawn over its
whole life, half of them while it trains, evaluates and saves; then left alone, and compared bit for bit with
a run that nothing interrupted. A corruption is one file of a checkpoint, archive, ArrayRecord or cache that
is flipped, cut, deleted, swapped, zeroed or made longer: it has to be noticed, or to change no bit of what is
loaded. The same seed draws the same moments and damages. Exit status 0: nothing went wrong.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.errors import DataError
from mmids_cnn.storage import checkpoints, digests
from tests.support import processes
from tests.support.processes import ROOT

RECORD = ROOT / "tests" / "benchmarks" / "records" / "torture.json"
KILLS = 4  # a round, at most
WRONG = ("mismatches", "failures", "tracebacks", "undetected")
Counts = collections.Counter[str]


def overrides(index: int) -> list[str]:
    """The reference network; every other run saves in the middle of epochs too; every third is streamed."""
    network = ",".join(map(str, base.get_config().model.channels))
    often = ["--config.checkpoint.every_seconds=0.02"] if index % 2 else []
    return [
        f"--config.model.channels={network}",
        *often,
        *(["--config.dataset.placement=streamed"] if index % 3 == 2 else []),
    ]


def kill_somewhere(place: processes.Place, name: str, index: int, rng: random.Random, life: float) -> bool:
    """Starts a run and kills it; False if it was done before."""
    process = place.start(name, *overrides(index))
    if rng.random() < 0.5:
        workdir, delay = place.work / name, rng.uniform(0, 0.4)
        at_work = rng.choice((lambda: (workdir / "config.json").exists(), lambda: processes.saving(workdir)))
        processes.until(process, at_work)
        time.sleep(delay if rng.random() < 0.5 else delay / 20)
    else:
        with contextlib.suppress(TimeoutError):
            deadline = time.monotonic() + rng.uniform(0, life)
            processes.until(process, lambda: time.monotonic() > deadline)
    process.kill()
    return process.wait() == -signal.SIGKILL


def play_round(place: processes.Place, index: int, seed: int, life: float, expected: Any) -> Counts:
    """One run, broken and completed; counts processes, kills and whatever is wrong with the end."""
    rng, name, counts = random.Random(f"{seed} {index}"), f"round{index}", Counts()
    for _ in range(rng.randint(1, KILLS)):
        counts["processes"] += 1
        if not kill_somewhere(place, name, index, rng, life):
            break
        counts["kills"] += 1
    done = place.run(name, *overrides(index))
    counts["processes"] += 1
    said = done.stdout + done.stderr + "".join(place.output(name))
    counts["tracebacks"] += said.count("Traceback")
    if done.returncode:
        print(f"round {index}: exit status {done.returncode}: {done.stderr}", file=sys.stderr)
        counts["failures"] += 1
    elif processes.bits(place.work / name) != expected:
        print(f"round {index}: other bits in {place.work / name}", file=sys.stderr)
        counts["mismatches"] += 1
    else:
        shutil.rmtree(place.work / name)
    return counts


def damage_checkpoint(unbroken: Path, folder: Path, rng: random.Random) -> tuple[str, str]:
    """Damages a checkpoint and restores the newest; returns what was done, and how it ended."""
    copy = processes.fresh(unbroken / "checkpoints", folder / "checkpoints")
    step = rng.choice(processes.steps(unbroken)[-2:])
    numbers = (rng.randrange(10**9), rng.randrange(10**9), rng.randrange(10**9))
    what = processes.damage(copy / str(step), rng.choice(processes.DAMAGES), numbers)
    said: list[str] = []
    found = checkpoints.newest(copy, said.append)
    assert found is not None
    original = checkpoints.restore(unbroken / "checkpoints", found.step)
    right = digests.fingerprint(original.tree) == digests.fingerprint(found.tree)
    newest = found.step == processes.steps(unbroken)[-1]
    if not right or not (newest or said):
        return f"step {step}: {what}", "undetected"
    return f"step {step}: {what}", "harmless" if newest else "detected"


def damage_data(root: Path, folder: Path, rng: random.Random) -> tuple[str, str]:
    """Damages an archive, the prepared set or the cache, and loads; as `damage_checkpoint`."""
    for name in ("archives", "data"):
        processes.fresh(root / name, folder / name)
    where = rng.choice(("archives", "data/idx_archives", "data/mmids_cnn"))
    if where != "data/mmids_cnn":  # where the cache is whole, nothing else is read
        shutil.rmtree(folder / "data" / "mmids_cnn")
    numbers = (rng.randrange(10**9), rng.randrange(10**9), rng.randrange(10**9))
    what = f"{where}: {processes.damage(folder / where, rng.choice(processes.DAMAGES), numbers)}"
    said: list[str] = []
    try:
        found = load(folder, said)
    except DataError:
        return what, "detected"
    expected = load(root, [])
    if (found.fingerprint, found.num_classes) != (expected.fingerprint, expected.num_classes):
        return what, "undetected"
    return what, "detected" if said else "harmless"


def load(root: Path, said: list[str]) -> data.Dataset:
    """Loads the small set from a folder; what is reported beside progress goes to `said`."""
    config = base.get_config()
    config.dataset.name = "fashion_mnist"
    config.dataset.archives, config.dataset.data_dir = f"{root}/archives", f"{root}/data"
    settings = config_lib.resolve(config).dataset
    return data.load(settings, lambda what, done, total: None if total else said.append(what))


def corrupt(root: Path, count: int, seed: int) -> Counts:
    """Damages `count` files, every other one of a checkpoint; counts how each ended."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            rng = random.Random(f"{seed} corruption {index}")
            try:
                attack = damage_data if index % 2 else damage_checkpoint
                source = root if index % 2 else root / "unbroken"
                what, end = attack(source, Path(folder), rng)
            except Exception:
                what, end = traceback.format_exc(), "tracebacks"
            counts["corruptions"] += 1
            counts[end] += 1
            if end in WRONG:
                print(f"corruption {index}: {end}: {what}", file=sys.stderr)
    return counts


def play(root: Path, arguments: argparse.Namespace, console: Console) -> Counts:
    """An unbroken run, the rounds, the corruptions."""
    place = processes.Place(processes.make_root(root), root)
    for name in ("first", "streamed", "unbroken"):  # the first two compile
        began = time.monotonic()
        done = place.run(name, *overrides(2 if name == "streamed" else 0))
        life = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"torture: the unbroken run failed: {done.stderr}")
    expected, counts = processes.bits(root / "unbroken"), Counts()
    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
        play_one = lambda index: play_round(place, index, arguments.seed, life, expected)  # noqa: E731
        for index, found in enumerate(pool.map(play_one, range(arguments.rounds)), 1):
            counts += found
            if index % 10 == 0:
                console.print(f"{index} rounds, {counts['kills']} kills, {counts['mismatches']} mismatches")
    return counts + corrupt(root, arguments.corruptions, arguments.seed)


def main() -> int:
    """Plays, shows a table, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="runs to break")
    parser.add_argument("--corruptions", type=int, default=200, help="files to damage")
    parser.add_argument("--seed", type=int, default=0, help="of all moments and damages")
    parser.add_argument("--workers", type=int, default=2, help="rounds at a time")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file to write")
    arguments, console, began = parser.parse_args(), Console(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = play(Path(folder), arguments, console)
        provenance = json.loads((Path(folder) / "unbroken" / "provenance.json").read_text())
    names = ("processes", "kills", *WRONG, "corruptions", "detected", "harmless")
    figures = {"rounds": arguments.rounds, **{name: counts[name] for name in names}}
    table = Table("what", "count")
    for name, count in figures.items():
        table.add_row(name, str(count), style="red" if name in WRONG and count else None)
    console.print(table)
    kept = ("mmids_cnn", "git_commit", "git_dirty", "python", "packages", "platform", "device", "xla_flags")
    record = {
        "command": f"ROUNDS={arguments.rounds} make torture",
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began, 1),
        **figures,
        **{name: provenance[name] for name in kept},
    }
    arguments.record.parent.mkdir(exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(counts[name] for name in WRONG))


if __name__ == "__main__":
    sys.exit(main())
