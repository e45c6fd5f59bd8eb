"""Kills processes that train one model together, at random moments, and compares the end with one process's.

    ROUNDS=30 make torture-together

A round is a run in two processes: of the reference network, of one with everything on, or of streamed data.
Up to four times either process is hit, by SIGKILL, SIGTERM or SIGINT; both have to end, the other one with
one line. The same command is then left alone, and its folder compared bit for bit with that of a run in a
single process that nothing hit. The same seed draws the same. Exit status 0: nothing went wrong.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")  # each process is a core's

from tests.promises import torture
from tests.promises.torture import Counts, Subject
from tests.support import forking, processes, together
from tests.support.processes import ROOT, Place

RECORD = ROOT / "tests" / "benchmarks" / "records" / "torture_together.json"
SECONDS = 60  # in which all processes have to end after one was hit
LONGER = "--config.num_epochs=40"  # seconds of training, so that most moments are in it
SUBJECTS = {
    "run": (torture.NETWORK, LONGER),
    "everything": (
        *torture.EVERYTHING.arguments,
        LONGER,
        "--config.train.patience=0",
        "--config.batch_size=64",
    ),
    "streamed": (torture.NETWORK, LONGER, "--config.dataset.placement=streamed"),
}
WRONG = ("mismatches", "failures", "tracebacks", "hangs")
COUNTED = ("rounds", "processes", "hits", *WRONG)


def hit(place: Place, name: str, arguments: tuple[str, ...], rng: random.Random) -> list[together.Ended]:
    """Starts two processes, and hits one of them somewhere; returns how they ended."""
    group = together.start(place, name, 2, *arguments)
    hit, number = group[rng.randrange(2)], rng.choice(torture.SIGNALS)
    processes.until(hit, lambda: processes.catches(hit))  # before that any program just ends
    before = processes.steps(group.workdir)
    if rng.random() < 0.8:
        processes.until(hit, lambda: processes.steps(group.workdir) != before)
    try:
        hit.wait(rng.uniform(0, 3))
    except subprocess.TimeoutExpired:
        hit.send_signal(number)
    return group.wait(SECONDS)


def as_expected(ended: list[together.Ended]) -> bool:
    """Whether both ended in a way that one hit explains, each with one line at most."""
    allowed = (0, 1, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGKILL)
    return all(one.status in allowed and one.err.count("\n") == (one.status > 0) for one in ended)


def play(place: Place, index: int, seed: int, subjects: dict[str, tuple[Subject, Any]]) -> Counts:
    """One run in two processes, hit and completed; counts processes, hits and whatever is wrong."""
    rng, name, counts = random.Random(f"{seed} {index}"), f"round{index}", Counts(["rounds"])
    subject, expected = list(subjects.values())[index % len(subjects)]
    arguments = (*subject.arguments, "--config.checkpoint.every_seconds=0.1")
    try:
        for _ in range(rng.randint(1, torture.HITS)):
            ended = hit(place, name, arguments, rng)
            counts["processes"] += 2
            if [one.status for one in ended] == [0, 0]:
                break
            counts["hits"] += 1
            if not as_expected(ended):
                print(f"round {index}: {ended}", file=sys.stderr)
                counts["failures"] += 1
            counts["tracebacks"] += any(torture.said_wrongly(one.out + one.err) != "" for one in ended)
        ended = together.run(place, name, 2, *arguments)
        counts["processes"] += 2
        failed = str(ended) if [one.status for one in ended] != [0, 0] else ""
        counts += torture.judged(f"round {index}", failed, place.work / name, subject, expected)
    except (subprocess.TimeoutExpired, AssertionError) as error:
        print(f"round {index}: {error}", file=sys.stderr)
        counts["hangs"] += 1
    return counts


def main() -> int:
    """Plays, shows a table, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of all moments")
    parser.add_argument("--workers", type=int, default=2, help="rounds at a time")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file to write")
    arguments, console, total = parser.parse_args(), Console(), collections.Counter[str]()
    with (
        tempfile.TemporaryDirectory() as folder,
        forking.started(Path(folder), processes.IMPORTS) as fork,
    ):
        place = Place(processes.make_root(Path(folder)), Path(folder), fork)
        subjects = {}
        for kind, flags in SUBJECTS.items():
            subject = Subject(flags, processes.bits)
            done = place.run(kind, *flags)
            if done.returncode:
                raise SystemExit(f"torture: the unbroken {kind} failed: {done.stderr}")
            subjects[kind] = subject, subject.outcome(place.work / kind)
        provenance = json.loads((place.work / "run" / "provenance.json").read_text())
        kept = {name: provenance[name] for name in torture.KEPT}

        def play_one(index: int) -> Counts:
            return play(place, index, arguments.seed, subjects)

        with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
            for found in pool.map(play_one, range(arguments.rounds)):
                total += found
                content = {name: total[name] for name in COUNTED}
                command = f"ROUNDS={arguments.rounds} make torture-together"
                record = {"command": command, "seed": arguments.seed, **content, **kept}
                arguments.record.write_text(json.dumps(record, indent=1) + "\n")
                console.print(", ".join(f"{value} {name}" for name, value in content.items()))
    table = Table("what", "count")
    for name in COUNTED:
        table.add_row(name, str(total[name]), style="red" if name in WRONG and total[name] else None)
    console.print(table)
    return int(any(total[name] for name in WRONG))


if __name__ == "__main__":
    sys.exit(main())
