"""Times this project beside PyTorch, Keras and plain Flax on this machine's CPU, interleaved.

    python tests/benchmarks/bench.py            # everything; writes records/cpu.json
    python tests/benchmarks/bench.py --quick    # 31 steps an epoch; writes only with --record

Every entrant is started cold (empty compilation caches) and warm (the caches its cold start left),
`--starts` times. The last warm process of each stays; in each of `--rounds` rounds every process in
turn trains one epoch and scores the test images while the others wait. Figures are medians; a ratio
to ours is the median over the rounds of that round's ratio. Last come whole commands of ours, see
`timings.py`, and epochs on one core beside those on two.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timings
from rich.console import Console
from timings import CPU_ONLY

from child import Child, ChildError
from record import floor, machine, ratios, summary
from table import benchmark_rows, print_table, target_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ARCHIVES = ROOT / "mmids_cnn" / "datasets" / "mnist"  # the four IDX archives
CHANNELS = (16, 32, 32)
BATCH_SIZE = 128
QUICK_IMAGES = 31 * 128 - 32  # 30 full batches and one of 96


@dataclass
class Entrant:
    """One line of the table; without `packages` it runs in this environment, else .venv-peers."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    status: str = "ok"
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    raw: dict[str, list[float]] = field(default_factory=dict)
    child: Child | None = None

    @property
    def running(self) -> Child:
        """Its process, which has been started."""
        assert self.child is not None
        return self.child

    def command(self, *more: str) -> list[str]:
        python = PEERS_PYTHON if self.packages else sys.executable
        return [str(python), str(HERE / "peers" / self.script), *self.arguments, *more]

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.raw.setdefault(name, []).append(value)

    def fail(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason
        if self.child:
            self.child.kill()

    def record(self, ours: dict[str, list[float]]) -> dict[str, Any]:
        """This line's figures; one that failed keeps its reason and no figure."""
        record: dict[str, Any] = {"name": self.name, "status": self.status, "versions": self.versions}
        if self.status != "ok":
            return record | {"reason": self.reason}
        record["summary"] = {name: summary(values) for name, values in self.raw.items()}
        return record | {"ratio_to_ours": ratios(self.raw, ours), "raw": self.raw}


def entrants() -> list[Entrant]:
    torch, keras = ("torch", "numpy"), ("tensorflow-cpu", "keras", "numpy")
    return [
        Entrant("mmids_cnn", "ours.py"),
        Entrant("PyTorch, eager", "torch_eager.py", packages=torch),
        Entrant("PyTorch, torch.compile", "torch_eager.py", ("--compile",), torch),
        Entrant("Keras 3 on TensorFlow", "keras_tensorflow.py", packages=keras),
        Entrant("plain Flax", "plain_flax.py"),
    ]


def write_arrays(archives: Path, folder: Path) -> None:
    """Unpacks the four IDX archives into the .npy files that every entrant reads."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _bytes(archives / f"{prefix}-images-idx3-ubyte.gz", header=16)
        np.save(folder / f"{split}_images.npy", pixels.reshape(-1, 28, 28, 1))
        digits = _bytes(archives / f"{prefix}-labels-idx1-ubyte.gz", header=8)
        np.save(folder / f"{split}_labels.npy", digits.astype(np.int32))


def _bytes(path: Path, header: int) -> np.ndarray:
    if not path.exists():
        raise SystemExit(f"bench: expected the MNIST archive {path}, found none; set --archives")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def install(packages: Iterable[str]) -> str:
    """Installs packages, as pinned, into .venv-peers; returns why that failed, or nothing."""
    if not PEERS_PYTHON.exists():
        venv.create(PEERS_PYTHON.parents[1], with_pip=True)
    pip = [str(PEERS_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", str(HERE / "peers" / "requirements.txt")]
    result = subprocess.run([*pip, *constraints, *packages], capture_output=True, text=True)
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
    return (errors or ["pip failed"])[0] if result.returncode else ""


def check(entrant: Entrant) -> None:
    """Installs an entrant and asks its versions, which also brings its files into memory."""
    if reason := install(entrant.packages) if entrant.packages else "":
        entrant.fail("not installed", reason)
        return
    try:
        entrant.versions = Child(entrant.command("--versions"), CPU_ONLY).first_reply["versions"]
    except ChildError as error:
        missing = "ModuleNotFoundError" in str(error)
        entrant.fail("not installed" if missing else "did not run", str(error))


def start(entrant: Entrant, arguments: Sequence[str], cache: Path, label: str) -> None:
    """Starts a process and notes how long its first step took; `label` is "cold" or "warm"."""
    caches = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    try:
        entrant.child = Child(entrant.command(*arguments), CPU_ONLY | caches)
    except ChildError as error:
        entrant.fail("did not run", str(error))
        return
    reply = entrant.child.first_reply
    compiling = reply["compile_seconds"] + reply["prepare_seconds"]
    entrant.add(**{f"{label}_first_step_seconds": reply["first_step_at"]})
    entrant.add(**{f"{label}_compile_seconds": compiling, "import_seconds": reply["import_seconds"]})


def start_all(running: Sequence[Entrant], arguments: Sequence[str], starts: int) -> None:
    """Starts each entrant cold, then warm, `starts` times; keeps its last warm process."""
    for turn in range(starts):
        for entrant in [entrant for entrant in running if entrant.status == "ok"]:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
                start(entrant, arguments, Path(cache), "cold")
                if entrant.status == "ok":
                    entrant.add(cold_peak_rss_bytes=entrant.running.quit()["peak_rss_bytes"])
                    start(entrant, arguments, Path(cache), "warm")
                if entrant.status == "ok" and turn < starts - 1:
                    entrant.running.quit()


def play_round(running: Sequence[Entrant]) -> None:
    """One epoch and one evaluation of each entrant in turn."""
    for entrant in running:
        try:
            epoch, evaluation = entrant.running.ask("epoch"), entrant.running.ask("evaluate")
        except ChildError as error:
            entrant.fail("did not run", str(error))
            continue
        entrant.add(epoch_seconds=epoch["seconds"], evaluation_seconds=evaluation["seconds"])
        entrant.add(accuracy=evaluation["accuracy"], idle_cpu_seconds=epoch["idle_cpu_seconds"])
        entrant.add(foreign_cores=max(epoch["foreign_cores"], evaluation["foreign_cores"]))


def matrix_rate() -> float:
    """Float32 matrix-product rate of this machine now, FLOP/s."""
    command = [sys.executable, str(HERE / "peers" / "matrix_product.py")]
    environment = os.environ | CPU_ONLY
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="folder of IDX archives")
    parser.add_argument("--rounds", type=int, help="epochs of each (5; quick 2)")
    parser.add_argument("--starts", type=int, help="cold and warm starts of each (3; quick 1)")
    parser.add_argument("--quick", action="store_true", help="31 steps an epoch, to try it out")
    parser.add_argument("--record", type=Path, help="JSON to write (records/cpu.json; quick: none)")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.starts = args.starts or (1 if args.quick else 3)
    if not args.quick:
        args.record = args.record or HERE / "records" / "cpu.json"
    return args


def report(record: dict[str, Any], console: Console) -> None:
    """Prints the table, why entrants are missing, and which figures other processes spoiled."""
    print_table(console, *benchmark_rows(record))
    print_table(console, *target_rows(record))
    for entrant in record["entrants"]:
        if entrant["status"] != "ok":
            text = f"{entrant['name']}: {entrant['status']}: {entrant['reason']}"
            console.print(text, style="yellow", markup=False)
        elif (foreign := max(entrant["raw"]["foreign_cores"])) > 0.1:
            text = f"{entrant['name']}: other processes used {foreign:.1f} cores; run again"
            console.print(text, style="red", markup=False)


def main() -> None:
    args, console, everyone = parse_args(), Console(), entrants()
    images, rates = QUICK_IMAGES if args.quick else 60_000, [matrix_rate()]
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(args.archives, Path(folder))
        arguments = ["--data", folder, "--batch_size", str(BATCH_SIZE), "--images", str(images)]
        arguments += ["--channels", ",".join(map(str, CHANNELS))]
        for entrant in everyone:
            check(entrant)
        start_all([e for e in everyone if e.status == "ok"], arguments, args.starts)
        few = ["--data", folder, "--images", str(min(images, 12_800))]
        for turn in range(args.rounds):
            console.print(f"round {turn + 1} of {args.rounds}")
            running = [entrant for entrant in everyone if entrant.status == "ok"]
            random.Random(turn).shuffle(running)  # nobody always follows the same neighbour
            play_round(running)
            rates.append(matrix_rate())
        cores = timings.second_core(everyone[0].command(*few), args.rounds)
    for entrant in everyone:
        if entrant.status == "ok":
            entrant.add(peak_rss_bytes=entrant.running.quit()["peak_rss_bytes"])
    ours = everyone[0].raw if everyone[0].status == "ok" else {}
    settings = {"batch_size": BATCH_SIZE, "channels": CHANNELS, "images": images}
    settings |= {name: getattr(args, name) for name in ("rounds", "starts", "quick")}
    record: dict[str, Any] = {
        "machine": machine(),
        "settings": settings,
        "answer_seconds": {name: summary(values) for name, values in timings.answers().items()},
        "run_seconds": {name: summary(values) for name, values in timings.runs(args.starts).items()},
        "second_core": summary(cores),
        "step_bytes": timings.step_bytes(),
        "floor": floor(CHANNELS, images, rates),
        "entrants": [entrant.record(ours) for entrant in everyone],
    }
    report(record, console)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
