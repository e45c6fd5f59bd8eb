"""The line protocol between the benchmark driver and one long-lived training process.

The driver spawns the process, then writes one JSON object a line to its standard input; the process
answers each with one JSON object on its standard output. Seconds are wall clock unless named cpu.

    (on start)            {"ready": true, "import_seconds", "first_step_at", "compile_seconds",
                           "prepare_seconds"}
    {"do": "epoch"}       {"seconds", "cpu_seconds", "idle_cpu_seconds"}
    {"do": "evaluate"}    the same and {"accuracy"}
    {"do": "quit"}        {"peak_rss_bytes"}, then the process ends

`import_seconds` and `first_step_at` count from the spawn, the interpreter's start included;
`compile_seconds` is the first step less a warm one; `prepare_seconds` is what compiling the rest
took. Between requests the process is blocked on its input: `idle_cpu_seconds`, the processor time
used there, shows that no thread pool spins while another process is being timed.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np


class Data(NamedTuple):
    """MNIST as stored: images uint8 [N, 28, 28, 1] in 0..255, labels int32 [N] in 0..9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Runner(Protocol):
    """One training program, made from arguments and data; its methods return when work is done."""

    def __init__(self, args: argparse.Namespace, data: Data) -> None: ...

    def step(self) -> None:
        """Trains on the first full batch."""

    def prepare(self) -> None:
        """Compiles the rest of an epoch and an evaluation, such as the last, smaller batch."""

    def epoch(self) -> None:
        """Trains one epoch in a fresh random order, the last, smaller batch included."""

    def evaluate(self) -> float:
        """Scores every test image; returns the fraction that is right."""


def serve(runner_class: type[Runner], libraries: Iterable[str]) -> None:
    """Builds a runner, takes a first step and three warm ones, and answers until told to quit.

    Args:
        runner_class: the training program.
        libraries: distributions whose versions are all that `--versions` asks for.
    """
    loaded = time.time()
    args = _parse_args()
    replies = _claim_stdout()
    if args.versions:
        _reply(replies, versions={name: version(name) for name in libraries})
        return
    runner = runner_class(args, load(args.data, args.images))
    first = _seconds(runner.step)
    first_step_at = time.time() - args.spawned
    warm = statistics.median(_seconds(runner.step) for _ in range(3))
    prepared = _seconds(runner.prepare)  # what is compiled in it is what a second time saves
    _reply(
        replies,
        ready=True,
        import_seconds=loaded - args.spawned,
        first_step_at=first_step_at,
        compile_seconds=max(0.0, first - warm),
        prepare_seconds=max(0.0, prepared - _seconds(runner.prepare)),
    )
    idle_from = time.process_time()
    while (request := json.loads(sys.stdin.readline())["do"]) != "quit":
        start, cpu_start = time.perf_counter(), time.process_time()
        score: Any = runner.evaluate if request == "evaluate" else runner.epoch
        score = score()
        seconds, cpu_end = time.perf_counter() - start, time.process_time()
        reply = {"seconds": seconds, "cpu_seconds": cpu_end - cpu_start}
        reply["idle_cpu_seconds"] = cpu_start - idle_from
        _reply(replies, **reply | ({} if score is None else {"accuracy": score}))
        idle_from = cpu_end
    _reply(replies, peak_rss_bytes=_peak_rss_bytes())


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder of {train,test}_{images,labels}.npy")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--channels", default="16,32,32")
    parser.add_argument("--model", type=json.loads, help="section of an experiment, JSON; not of all peers")
    parser.add_argument("--augment", type=json.loads, default={}, help="the same of that section; ours only")
    parser.add_argument("--images", type=int, default=60_000, help="past 60,000 they repeat")
    parser.add_argument("--population", type=int, default=1, help="models at once; ours only")
    parser.add_argument("--compile", action="store_true", help="torch.compile; PyTorch only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spawned", type=float, default=time.time(), help="time.time() at spawn")
    parser.add_argument("--versions", action="store_true", help="print library versions and end")
    args = parser.parse_args()
    args.channels = [int(text) for text in args.channels.split(",")]
    return args


def load(folder: Path, images: int) -> Data:
    """Maps the arrays into memory; the training split is cut or repeated to `images` images."""
    names = [f"{split}_{part}.npy" for split in ("train", "test") for part in ("images", "labels")]
    train_images, train_labels, *test = (np.load(folder / name, mmap_mode="r") for name in names)
    if images != len(train_labels):
        wanted = np.arange(images) % len(train_labels)
        train_images, train_labels = train_images[wanted], train_labels[wanted]
    return Data(train_images, train_labels, *test)


def _claim_stdout() -> TextIO:
    """Keeps standard output for replies; whatever else prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, **values: object) -> None:
    print(json.dumps(values), file=replies, flush=True)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak_rss_bytes() -> int:
    """Largest resident set so far; `ru_maxrss` is in KiB on Linux and in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
