"""Trains the reference recipe with seeds 0 to 4 through the real command line and records the results.

    python tests/benchmarks/reproduce.py

Each seed is a fresh run in a temporary folder. Before them the command is started once with an empty cache of
compiled programs and once with a full one, to time the way to the first training step. Peak memory is that of
the whole process, as the operating system accounts for it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import source

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXPERIMENT = ROOT / "experiments" / "base.py"


def start(cache: str, workdir: Path) -> float:
    """Seconds from the command to the end of its first training step; the run is then stopped."""
    command = _command(workdir, f"--compilation_cache={cache}")
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("first step after"):
                elapsed = time.perf_counter() - began
                process.kill()
                return elapsed
    raise SystemExit(f"reproduce: expected {' '.join(command)} to train, it ended with {process.returncode}")


def train(seed: int, workdir: Path) -> dict[str, Any]:
    """Runs the recipe with a seed; returns its result, and where that came from."""
    subprocess.run(_command(workdir, f"--config.seed={seed}"), check=True, env=_environment())
    result = json.loads((workdir / "result.json").read_text())
    return {
        "seed": seed,
        "result": result,
        "provenance": json.loads((workdir / "provenance.json").read_text()),
    }


def main() -> None:
    """Measures, then writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "base_cpu.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run(_command(place / "prepare", "--config.num_epochs=1"), check=True, env=_environment())
        starts = [start(f"{folder}/cache", place / f"start{index}") for index in range(2)]
        runs = [train(seed, place / str(seed)) for seed in range(arguments.seeds)]
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    record = {
        "command": "make reproduce",
        "experiment": str(EXPERIMENT.relative_to(ROOT)),
        "provenance": source(runs[0]["provenance"]),
        "seconds_to_first_step": {"first": starts[0], "second": starts[1]},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
        "runs": [{"seed": run["seed"], **run["result"]} for run in runs],
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def _command(workdir: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mmids_cnn.main", f"--config={EXPERIMENT}"),
        *(f"--workdir={workdir}", "--progress=plain", *overrides),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    main()
