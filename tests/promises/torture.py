"""Breaks runs and sweeps at random moments, damages their files at random, and counts what went wrong.

    ROUNDS=100 make torture

A *break* is one run, every fourth a sweep, that is hit up to four times at moments drawn over its whole life:
by SIGKILL, SIGTERM or SIGINT, or, where file systems may be mounted, by a disk that is full. It is then left
alone, and compared bit for bit with one that nothing hit.

A *damage* is one file of a run, a sweep (finished or not), the data or the compiled programs that is flipped,
cut, deleted, swapped, zeroed, made longer, replaced by an older copy, or in which a digit or a letter stands
for another. What the commands say of it afterwards has to be right, or an error of one line; the command that
made it has to end with the right bits. The same seed draws the same. Exit status 0: nothing went wrong.

A round is a break and a damage. The record is written after each: where it has fewer rounds than are asked
for, the same command goes on with it, in a sitting of its own, which names its commit and machine.
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
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

from mmids_cnn import config as config_lib
from mmids_cnn.console import experiment_file
from mmids_cnn.settings import schema
from mmids_cnn.storage import files
from tests.support import everything, forking, processes
from tests.support.processes import ROOT, Place

RECORD = ROOT / "tests" / "benchmarks" / "records" / "torture.json"
HITS = 4  # of a run, at most
WRONG = ("mismatches", "undetected", "failures", "tracebacks", "hangs")
COUNTED = ("rounds", "processes", "hits", "full disks", "mended", "refused", "right", *WRONG)
KEPT = ("mmids_cnn", "git_commit", "git_dirty", "python", "packages", "platform", "device", "xla_flags")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NETWORK = "--config.model.channels=16,32,32"  # the reference network
Counts = collections.Counter[str]


class Subject(NamedTuple):
    """What is broken and damaged.

    Attributes:
      arguments: of the command that makes it, beside its folder; the experiment file first, if another.
      outcome: all in its folder that must not depend on what happened to it, or raises where there is none.
    """

    arguments: tuple[str, ...]
    outcome: Callable[[Path], Any]


def sweep_outcome(workdir: Path) -> Any:
    """All of a sweep that must not depend on interruptions: values, confirmation, the winner's experiment."""
    best = json.loads((workdir / "best.json").read_text())
    winner = schema.flatten(config_lib.resolve(experiment_file.load(str(workdir / "winner.py"))))
    return {
        "best": [best[name] for name in ("trial", "settings", "validation", "confirmed")],
        "trials": (workdir / "trials.csv").read_text(),
        "winner": {name: value for name, value in winner.items() if config_lib.changes_result(name)},
    }


RUN = Subject((NETWORK,), processes.bits)
STREAMED = Subject((NETWORK, "--config.dataset.placement=streamed"), processes.bits)
EVERYTHING = Subject(  # that is off in the reference recipe
    (
        *("--config.model.name=norm_net", "--config.model.channels=8,8", "--config.model.depths=1,1"),
        *(
            "--config.model.dropout=0.1",
            "--config.dataset.validation_examples=100",
            "--config.train.patience=2",
            "--config.optimizer.schedule=one_cycle",
            "--config.optimizer.warmup_fraction=0.2",
        ),
        *everything.FLAGS,
    ),
    processes.bits,
)
SWEEP = Subject(
    (
        f"--config={ROOT}/experiments/sweep.py",
        *("--config.num_epochs=2", "--config.sweep.population=2"),
        *("--config.sweep.seeds=1", "--config.sweep.confirm_seeds=1", "--config.sweep.halving=2"),
        *("--config.sweep.rungs=1,", "--config.sweep.space.optimizer.learning_rate=choice(1e-3,1e-2)"),
        *("--config.dataset.validation_examples=100", *everything.FLAGS),
    ),
    sweep_outcome,
)


def said_wrongly(text: str) -> str:
    """A kind of `WRONG` that a command's output is by itself, or nothing."""
    return "tracebacks" if "Traceback" in text or "unexpected " in text else ""


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of so many kilobytes over a folder; False where none can be mounted."""
    folder.mkdir(exist_ok=True)
    options = ("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def hit_somewhere(place: Place, name: str, subject: Subject, often: list[str], rng: random.Random) -> int:
    """Starts it and sends a signal; returns the exit status."""
    number, forked = rng.choice(SIGNALS), rng.random() < 0.9
    process = place.start(name, *subject.arguments, *often, forked=forked)
    workdir, delay = place.work / name, rng.uniform(0, 0.4)
    processes.until(process, lambda: processes.catches(process))  # before that any program just ends
    moments: list[Callable[[], bool]] = [
        lambda: (workdir / "provenance.json").exists(),
        lambda: processes.saving(workdir) or any(workdir.glob("populations/*")),
    ]
    if rng.random() < 0.5:
        processes.until(process, rng.choice(moments))
        time.sleep(delay if rng.random() < 0.5 else delay / 20)
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 6))
    process.send_signal(number)
    return process.wait(timeout=60)


def judged(what: str, failed: str, workdir: Path, subject: Subject, expected: Any) -> Counts:
    """What is wrong with the end of what was hit and completed; its folder goes where nothing is."""
    if failed:
        print(f"{what}: {failed}", file=sys.stderr)
        return Counts(["failures"])
    if subject.outcome(workdir) != expected:
        print(f"{what}: other bits in {workdir}", file=sys.stderr)
        return Counts(["mismatches"])
    shutil.rmtree(workdir)
    return Counts()


def play_break(place: Place, index: int, seed: int, subjects: dict[str, tuple[Subject, Any]]) -> Counts:
    """One run or sweep, hit and completed; counts processes, hits and whatever is wrong with the end."""
    rng, name, counts = random.Random(f"{seed} {index}"), f"break{index}", Counts()
    kind = "sweep" if index % 4 == 3 else ("run", "everything", "streamed")[index % 3]
    subject, expected = subjects[kind]
    often = ["--config.checkpoint.every_seconds=0.02"] if index % 2 else []
    try:
        if rng.random() < 0.2:
            with small_disk(place.work / name, rng.randint(100, 2000)) as mounted:
                done = place.run(name, *subject.arguments, *often)
                counts["full disks"] += mounted and done.returncode == 1
                kept = shutil.copytree(place.work / name, place.work / f"{name}.kept")
            shutil.rmtree(place.work / name, ignore_errors=True)
            kept.rename(place.work / name)
            counts["processes"] += 1
            counts[said_wrongly(done.stderr)] += 1
        for _ in range(rng.randint(1, HITS)):
            counts["processes"] += 1
            status = hit_somewhere(place, name, subject, often, rng)
            if status == 0:
                break
            counts["hits"] += 1
            if status not in (-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT):
                print(f"break {index}: exit status {status}: {place.output(name)[1]}", file=sys.stderr)
                counts["failures"] += 1
        done = place.run(name, *subject.arguments, *often)
        counts["processes"] += 1
        said = done.stdout + done.stderr + "".join(place.output(name))
        counts[said_wrongly(said)] += 1
        failed = f"exit status {done.returncode}: {done.stderr}" if done.returncode else ""
        counts += judged(f"break {index}", failed, place.work / name, subject, expected)
    except (subprocess.TimeoutExpired, AssertionError) as error:
        print(f"break {index}: {error}", file=sys.stderr)
        counts["hangs"] += 1
    return counts


PLACES = ("run", "run", "run", "sweep", "sweep", "archives", "data/idx_archives", "data/mmids_cnn", "cache")


def damage(root: Path, place: Place, rng: random.Random, subjects: dict[str, tuple[Subject, Any]]) -> str:
    """Damages a file, and asks the commands; returns what was done and, after a colon, how it ended.

    Args:
      root: with the finished `run` and `sweep`, the `unfinished-` ones, `older-` ones, and the data.
      place: where the copies are made, which is emptied.
      rng: what draws.
      subjects: with the right outcome of each.
    """
    where = rng.choice([one for one in PLACES if one != "sweep" or one in subjects])
    kind = where if where in subjects else "run"
    subject, expected = subjects[kind]
    for name in ("archives", "data", "cache"):
        processes.fresh(root / name, place.root / name)
    state = rng.choice(("", "unfinished-")) if where == kind else "unfinished-"
    workdir = processes.fresh(root / f"{state}{kind}", place.work / kind)
    target = workdir if where == kind else place.root / where
    if where in ("archives", "data/idx_archives"):  # where the cache is whole, nothing else is read
        shutil.rmtree(place.root / "data" / "mmids_cnn")
    how = rng.choice(processes.DAMAGES + processes.PLAUSIBLE)
    older = root / f"older-{kind}" if where == kind else root / where
    numbers = (rng.randrange(10**9), rng.randrange(10**9), rng.randrange(10**9))
    what = f"{state}{where}: {processes.damage(target, how, numbers, older)}"
    before = processes.content(workdir)
    shown = place.run(kind, module="evaluate") if kind == "run" else None
    ended = place.run(kind, *subject.arguments)
    for done in (shown, ended):
        if done and (said_wrongly(done.stdout + done.stderr) or done.stderr.count("error: ") > 1):
            return f"{what}: tracebacks: {done.stderr}"
    accuracy = json.loads((root / "run" / "result.json").read_text())["test/accuracy"]
    right = f"test accuracy {100 * accuracy:.2f} % "
    if shown and shown.returncode == 0 and not state and right not in shown.stdout:
        older_one = "skipped" in shown.stderr  # a checkpoint was passed over, and that was said
        if not older_one:
            return f"{what}: undetected: {shown.stdout}"
    if ended.returncode:
        one_line = ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
        # What cannot be computed again has to be put back by hand: archives, all that there is to go on from.
        lost = where == "archives" or "put" in ended.stderr
        return f"{what}: {'refused' if one_line and lost else 'failures'}: {ended.stderr}"
    if kind == "run" and not state:  # a finished run is shown, and its checkpoints are left alone
        right_bits = expected | processes.shown(workdir) == expected
    else:
        right_bits = subject.outcome(workdir) == expected
    if not right_bits:
        return f"{what}: undetected: {ended.stdout}"
    same = processes.content(workdir) == before or state
    return f"{what}: {'right' if same else 'mended'}"


def play_damage(
    root: Path, fork: forking.Forking, index: int, seed: int, subjects: dict[str, tuple[Subject, Any]]
) -> Counts:
    """One file damaged, in a copy of `root`; counts how that ended."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), Path(folder), fork)
        try:
            text = damage(root, place, random.Random(f"{seed} damage {index}"), subjects)
        except subprocess.TimeoutExpired as error:
            text = f"damage: hangs: {error}"
        except Exception:
            text = f"damage: tracebacks: {traceback.format_exc()}"
    end = next(end for end in (*WRONG, "refused", "right", "mended") if f": {end}" in text)
    if end in WRONG:
        print(f"damage {index}: {text}", file=sys.stderr)
    return Counts([end])


class Record:
    """What has been played, in a file that is written after each round.

    Args:
      path: the file. One of other `identity`, or with all its rounds, is begun anew.
      rounds: how many are asked for.
      identity: what makes sittings parts of one record.
      sitting: what this process plays on.

    Attributes:
      content: of the file; counts are sums over its sittings.
    """

    def __init__(self, path: Path, rounds: int, identity: dict[str, Any], sitting: dict[str, Any]) -> None:
        self._path, self._began, self._sitting = (
            path,
            time.monotonic(),
            {**dict.fromkeys(COUNTED, 0), **sitting},
        )
        before = json.loads(path.read_text()) if path.exists() else {}
        same = all(before.get(name) == value for name, value in identity.items())
        goes_on = same and before.get("rounds", rounds) < rounds
        self._sittings = [*(before["sittings"] if goes_on else []), self._sitting]
        self.content: dict[str, Any] = dict(identity)
        self.add(Counts())

    def add(self, found: Counts) -> None:
        """Counts what one round has come to."""
        for name in COUNTED:
            self._sitting[name] += found[name]
        self._sitting["seconds"] = round(time.monotonic() - self._began, 1)
        for name in ("seconds", *COUNTED):
            self.content[name] = sum(one[name] for one in self._sittings)
        self.content["sittings"] = self._sittings
        files.write_json(self._path, self.content)


def prepare(fork: forking.Forking, root: Path) -> dict[str, tuple[Subject, Any]]:
    """Makes what is broken and damaged, and the right outcome of each."""
    place = Place(processes.make_root(root), root, fork)
    subjects = {}
    for kind, subject in {"run": RUN, "streamed": STREAMED, "everything": EVERYTHING, "sweep": SWEEP}.items():
        for name in (f"compiles-{kind}", kind):
            done = place.run(name, *subject.arguments)
            if done.returncode:
                raise SystemExit(f"torture: the unbroken {kind} failed: {done.stderr}")
        subjects[kind] = subject, subject.outcome(root / kind)
    place.run("older-run", *RUN.arguments, "--config.num_epochs=2")
    leave_unfinished(root, "run")
    leave_unfinished(root, "sweep")
    shutil.copytree(root / "unfinished-sweep", root / "older-sweep")
    return subjects


def leave_unfinished(root: Path, kind: str) -> None:
    """A copy of a finished run or sweep without its end."""
    unfinished = processes.fresh(root / kind, root / f"unfinished-{kind}")
    for name in ("result.json", "best.json", "trials.csv", "winner.py", "report.html"):
        (unfinished / name).unlink(missing_ok=True)
    if kind == "run":
        shutil.rmtree(unfinished / "checkpoints" / str(processes.steps(unfinished)[-1]))
    else:
        shutil.rmtree(unfinished / "confirm")


def main() -> int:
    """Plays, shows a table, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="breaks, and as many damages")
    parser.add_argument("--seed", type=int, default=0, help="of all moments and damages")
    parser.add_argument("--workers", type=int, default=3, help="breaks at a time")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file to write")
    arguments, console = parser.parse_args(), Console()
    with (
        tempfile.TemporaryDirectory() as folder,
        forking.started(Path(folder), processes.IMPORTS) as fork,
    ):
        root = Path(folder)
        subjects, place = prepare(fork, root), Place(root, root, fork)
        provenance = json.loads((root / "run" / "provenance.json").read_text())
        identity = {"command": f"ROUNDS={arguments.rounds} make torture", "seed": arguments.seed}
        sitting = {name: provenance[name] for name in KEPT}
        record = Record(arguments.record, arguments.rounds, identity, sitting)

        def play_one(index: int) -> Counts:
            counts = play_break(place, index, arguments.seed, subjects)
            return counts + play_damage(root, fork, index, arguments.seed, subjects) + Counts(["rounds"])

        with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
            for found in pool.map(play_one, range(record.content["rounds"], arguments.rounds)):
                record.add(found)
                said = record.content
                if said["rounds"] % 10 == 0:
                    wrong = ", ".join(f"{said[name]} {name}" for name in WRONG)
                    console.print(f"{said['rounds']} rounds, {said['hits']} hits; {wrong}")
    table = Table("what", "count")
    for name in COUNTED:
        count = record.content[name]
        table.add_row(name, str(count), style="red" if name in WRONG and count else None)
    console.print(table)
    return int(any(record.content[name] for name in WRONG))


if __name__ == "__main__":
    sys.exit(main())
