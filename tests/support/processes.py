"""Runs of the real commands in processes of their own: started, hit at some moment, compared bit for bit."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import checkpoints, digests, files
from tests.support import forking as forking_lib
from tests.support import idx_files
from tests.support.forking import Forking

ROOT = forking_lib.ROOT
PER_EPOCH = 13  # steps: 400 images, 32 at a time
EPOCHS = 4
CHANNELS = "8,"
Process = subprocess.Popen[str] | forking_lib.Process
DAMAGES = ("flip", "truncate", "delete", "swap", "zero", "append")
PLAUSIBLE = ("digit", "letter", "older")  # what leaves a file that can be read


# What a run imports, but for the command itself. JAX, being there already, does not read the environment.
IMPORTS = """
import jax
from jax._src import lru_cache
import mmids_cnn.deploy.pictures, mmids_cnn.score, mmids_cnn.populations.population
from mmids_cnn.devices import compilation
from mmids_cnn.runs import report, run, session, trained
from mmids_cnn.sweeps import report, session, sweep

lru_cache.LRUCache._evict_if_needed = lambda self, additional_size=0: None  # see tests.support.suite

def use_cache(folder, use=compilation.use_cache):
    use(folder)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

compilation.use_cache = use_cache
"""


class Place(NamedTuple):
    """Where runs happen: `root` holds archives, prepared data, compiled programs; `work` the run folders.

    Their network has one block, about as many parameters as the reference network, and starts sooner.
    """

    root: Path
    work: Path
    forking: Forking

    def command(self, workdir: str, *overrides: str, module: str = "main") -> list[str]:
        """The command line of a run of four short epochs; later overrides win, a `--config` ahead too."""
        if module != "main":
            return [sys.executable, "-m", f"mmids_cnn.{module}", f"--workdir={workdir}", *overrides]
        file = f"--config={ROOT}/experiments/base.py"
        if overrides and overrides[0].startswith("--config="):
            file, *overrides = overrides  # type: ignore[assignment]
        return [
            *(sys.executable, "-m", "mmids_cnn.main", file),
            *(f"--workdir={workdir}", f"--config.num_epochs={EPOCHS}", "--config.batch_size=32"),
            *(f"--config.model.channels={CHANNELS}", "--config.report=False"),
            *("--config.dataset.name=fashion_mnist", f"--config.dataset.archives={self.root}/archives"),
            *overrides,
        ]

    def environment(self, **extra: str) -> dict[str, str]:
        """Data and compiled programs of the tests; output as it comes; warnings are shown, once each."""
        own = {"TFDS_DATA_DIR": f"{self.root}/data", "XDG_CACHE_HOME": f"{self.root}/cache"}
        return {**os.environ, **own, "JAX_PLATFORMS": "cpu", **extra}

    def run(
        self, workdir: str, *overrides: str, module: str = "main", **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        command, environment = self.command(workdir, *overrides, module=module), self.environment(**extra)
        return self.forking.run(command, self.work, environment)

    def start(
        self, workdir: str, *overrides: str, module: str = "main", forked: bool = True, **extra: str
    ) -> Process:
        """Starts a command; its output goes to `<workdir>.out` and `<workdir>.err`.

        Where it is not forked, it is a process from its beginning, which imports JAX by itself.
        """
        out, err = (self.work / f"{workdir}.{end}" for end in ("out", "err"))
        command, environment = self.command(workdir, *overrides, module=module), self.environment(**extra)
        return self.forking.start(command, self.work, environment, out, err, forked)

    def output(self, workdir: str) -> tuple[str, str]:
        """What a started command has written so far to standard output and standard error."""
        out, err = ((self.work / f"{workdir}.{end}").read_text() for end in ("out", "err"))
        return out, err


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def make_root(root: Path) -> Path:
    """Writes the archives: 400 training and 200 test images of MNIST."""
    idx_files.write_set(root / "archives", idx_files.digits(400, 200))
    return root


def until(process: Process, moment: Callable[[], bool], timeout: float = 120) -> bool:
    """Waits for a moment in the life of a process; False if it ended before."""
    end = time.monotonic() + timeout
    while not moment():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.002)
    return process.poll() is None


def catches(process: Process) -> bool:
    """Whether a process has installed its handler of SIGTERM."""
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that are committed."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    return []


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*tmp*"))


def bits(workdir: Path) -> dict[str, Any]:
    """All that an unbroken run and a broken one have to share, bit for bit: everything but clocks."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    restored = checkpoints.newest(workdir / "checkpoints", refuse)
    assert restored is not None
    return shown(workdir) | {
        "state": {path: digests.digest(array) for path, array in digests.leaves(restored.tree)},
        "step": restored.step,
        "best": restored.meta["best"],
    }


def shown(workdir: Path) -> dict[str, Any]:
    """The rows and the result of a run, without clocks."""
    rows = (workdir / run_folder.METRICS).read_text().splitlines()
    return {
        "rows": [timeless(json.loads(row)) for row in rows],
        "result": timeless(json.loads((workdir / run_folder.RESULT).read_text())),
    }


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics or a result without its clocks, and without digests of what has clocks."""
    clocks = ("images_per_second", "sha256", "self")
    return {k: v for k, v in row.items() if k not in clocks and not k.startswith("seconds")}


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file of a folder, None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


def damage(folder: Path, kind: str, numbers: tuple[int, int, int], older: Path | None = None) -> str:
    """Damages a file somewhere in a folder as three large random numbers say; tells what was done.

    Args:
      folder: where one of the files is chosen.
      kind: one of `DAMAGES` and `PLAUSIBLE`.
      numbers: choose the file, the place in it, the change.
      older: a folder that has older copies.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    path, other = files[numbers[0] % len(files)], files[numbers[1] % len(files)]
    old = path.read_bytes()
    at = numbers[1] % max(1, len(old))
    new = bytearray(old)
    if kind == "flip" and old:
        new[at] ^= 1 << numbers[2] % 8
    elif kind == "truncate":
        del new[at:]
    elif kind == "zero":
        new[at : at + 64] = bytes(len(new[at : at + 64]))
    elif kind == "append":
        new += b"\0"
    elif kind in ("digit", "letter"):
        alphabet = (string.digits if kind == "digit" else string.ascii_lowercase).encode()
        places = [place for place, byte in enumerate(old) if byte in alphabet]
        if places:
            at = places[numbers[1] % len(places)]
            new[at] = alphabet[
                (alphabet.index(old[at]) + 1 + numbers[2] % (len(alphabet) - 1)) % len(alphabet)
            ]
    elif kind == "older" and older and (older / path.relative_to(folder)).is_file():
        new = bytearray((older / path.relative_to(folder)).read_bytes())
    path.write_bytes(new)
    if kind == "delete":
        path.unlink()
    elif kind == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(old)
    return f"{kind} {path.relative_to(folder)} at {at} of {len(old)}, other file {other.relative_to(folder)}"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory over a folder; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def rewritten(workdir: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Configuration and result of a finished run, to be changed: they are then sealed as if they were so."""
    config, result = (files.read_sealed(workdir / name) for name in (run_folder.CONFIG, run_folder.RESULT))
    yield config, result
    files.write_sealed(workdir / run_folder.CONFIG, config)
    run_folder.write_result(workdir, result)


def fresh(source: Path, target: Path) -> Path:
    """A copy of a folder in the place of an older one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
