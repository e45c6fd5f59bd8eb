"""SIGTERM and Ctrl-C: obeyed within five seconds at any moment, and nothing is lost that could be saved."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.processes import PER_EPOCH, Place, bits, saving, steps, until

SECONDS = 5
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
NOTHING = "nothing was left to save; give the same command again"
both = pytest.mark.parametrize("number", STATUS)
# A program without JAX: `work` is what the main thread does, and never comes back from by itself.
PROGRAM = """
import sys, time
from mmids_cnn.console import signals
signals.watch()
{before}
print("ready", file=sys.stderr, flush=True)
{work}
"""


def stopped(process: processes.Process, number: int) -> float:
    """Sends a signal, waits for the end, checks the exit status; returns the seconds that it took."""
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == STATUS[signal.Signals(number)]
    return time.monotonic() - began


def program(work: str, before: str = "", **streams: Any) -> subprocess.Popen[str]:
    code = PROGRAM.format(work=work, before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        cwd=processes.ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        **streams,
    )
    assert process.stderr and process.stderr.readline() == "ready\n"
    return process


@both
def test_nothing_to_save(number: int) -> None:
    with program("time.sleep(60)") as process:
        assert stopped(process, number) < SECONDS
        assert (
            process.stderr
            and process.stderr.read() == f"stopped by {signal.Signals(number).name}: {NOTHING}\n"
        )


def test_main_thread_that_is_not_in_python() -> None:
    """As while XLA compiles: a C call that does not let Python's own handlers run."""
    # Minutes of work, which no signal cuts short as it does a sleep.
    with program("import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)") as process:
        assert stopped(process, signal.SIGTERM) < SECONDS


@both
def test_grace_ends(number: int) -> None:
    with program("time.sleep(60)", before="signals.defer()") as process:
        assert 3 < stopped(process, number) < SECONDS
        assert (
            process.stderr and "not done after 4 s; give the same command to go on" in process.stderr.read()
        )


@pytest.mark.parametrize("numbers", [(15, 15), (2, 2), (15, 2), (2, 15)])
def test_second_signal_ends_at_once(numbers: tuple[int, int]) -> None:
    with program("time.sleep(60)", before="signals.defer()") as process:
        process.send_signal(numbers[0])
        time.sleep(0.2)
        assert process.poll() is None
        assert stopped(process, numbers[1]) < 2
        assert process.stderr and "at once, at the second signal" in process.stderr.read()


def test_timeout_sends_its_signal_twice() -> None:
    """To its child, and then to all of its group: there is still time to save."""
    with program("time.sleep(60)", before="signals.defer()") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        assert stopped(process, signal.SIGTERM) > 3
        assert process.stderr and "not done after 4 s" in process.stderr.read()


@pytest.mark.parametrize("before", ["", "signals.defer()"])
def test_output_that_nobody_reads(before: str) -> None:
    """A full pipe blocks whoever writes to it, and the lock of its stream with it."""
    with program("while True: print('x' * 1000)", before=before, stdout=subprocess.PIPE) as process:
        time.sleep(0.3)
        assert stopped(process, signal.SIGTERM) < SECONDS


def test_output_that_is_closed() -> None:
    with program("time.sleep(60)", stdout=subprocess.PIPE, before="print('x', end='')") as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        process.stderr.close()
        assert stopped(process, signal.SIGTERM) < SECONDS


ENDING = """
import ctypes, os
from mmids_cnn.console import command
libc = ctypes.CDLL(None)
libc.on_exit(libc.getchar, None)  # after all of Python has ended
command.run(lambda: os.read(0, 1) and None, lambda: None, "")
"""


def test_signals_in_the_last_moment() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDING], stdin=subprocess.PIPE) as process:
        assert processes.until(process, lambda: processes.catches(process))
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        assert processes.until(process, lambda: not processes.catches(process))
        time.sleep(0.3)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        time.sleep(0.1)
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_importing(place: Place) -> None:
    process = place.start("run", forked=False)
    assert until(process, lambda: processes.catches(process))
    assert stopped(process, signal.SIGINT) < SECONDS
    assert place.output("run") == ("", f"stopped by SIGINT: {NOTHING}\n")


def test_preparing_data(place: Place) -> None:
    """All of MNIST, which takes seconds; the same command afterwards finds no part of it that it trusts."""
    data = place.work / "data"
    overrides = ["--config.dataset.archives=", "--config.dataset.name=mnist"]
    process = place.start("run", *overrides, TFDS_DATA_DIR=str(data))
    assert until(process, lambda: any(data.glob("idx_archives/*/*")))
    assert stopped(process, signal.SIGTERM) < SECONDS
    assert place.output("run")[1] == f"stopped by SIGTERM: {NOTHING}\n"
    assert not any(data.glob("mmids_cnn/*/manifest.json"))


def test_compiling(place: Place) -> None:
    process = place.start("run", "--compilation_cache=", "--config.model.channels=16,32,32")
    assert until(process, lambda: "workdir: run" in place.output("run")[0])
    time.sleep(1)  # compiling takes several
    assert "first step" not in place.output("run")[0]
    assert stopped(process, signal.SIGTERM) < SECONDS
    assert place.output("run")[1] == f"stopped by SIGTERM: {NOTHING}\n"


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, "training"), (signal.SIGINT, "saving")])
def test_stopped_run_goes_on_to_the_same_bits(place: Place, unbroken: Path, number: int, at: str) -> None:
    workdir = place.work / "run"
    cadence = {"training": ["--config.checkpoint.every_epochs=0"], "saving": []}
    process = place.start("run", *cadence[at])
    rows = workdir / "metrics.jsonl"
    moment = {
        "training": lambda: rows.exists() and rows.read_text().count("\n") > 1,  # after the first epoch
        "saving": lambda: saving(workdir),
    }
    assert until(process, moment[at])
    assert stopped(process, number) < SECONDS
    name, error = signal.Signals(number).name, place.output("run")[1]
    after = re.fullmatch(
        rf"stopped by {name}: after step (\d+); give the same command again to go on from there\n", error
    )
    assert after, error
    assert max(steps(workdir)) == int(after[1]) >= PER_EPOCH
    done = place.run("run")
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = bits(workdir), bits(unbroken)
    assert found == expected


def test_evaluating(place: Place) -> None:
    """One image at a time, after every epoch: most of the time passes so."""
    slow = ["--config.eval.batch_size=1", "--config.num_epochs=100000", "--config.checkpoint.every_epochs=0"]
    process = place.start("run", *slow)
    rows = place.work / "run" / "metrics.jsonl"
    assert until(process, lambda: rows.exists() and rows.read_text().count("\n") > 2)
    assert stopped(process, signal.SIGTERM) < SECONDS
    (step,) = steps(place.work / "run")
    assert f"stopped by SIGTERM: after step {step}; " in place.output("run")[1]


def test_other_commands(place: Place, unbroken: Path) -> None:
    processes.fresh(unbroken, place.work / "run")
    for module in ("evaluate", "reproduce"):
        process = place.start("run", module=module)
        assert until(process, functools.partial(processes.catches, process))
        assert stopped(process, signal.SIGTERM) < SECONDS
