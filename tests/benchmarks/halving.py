"""Runs `experiments/lr_sweep.py` with and without successive halving: what is found, and in what time.

    python tests/benchmarks/halving.py

Three real commands, each into a folder of its own: the experiment as it is, with halving, which also confirms
its winner; the search of the whole grid; and the search by halving again, for a machine's speed drifts. The
searches are timed, from the command to the last trial.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT))  # the checkout, for `experiments`

from experiments import lr_sweep
from record import source

EXPERIMENT = "experiments/lr_sweep.py"
SEARCH = "--config.sweep.confirm_seeds=0"
ARMS = {"halving": (), "whole grid": ("--config.sweep.halving=0", SEARCH), "halving again": (SEARCH,)}
SETTLED = re.compile(r"trial \d+: .* (complete|pruned|non-finite)")


def play(folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Runs the experiment in an empty folder; returns the seconds it took and what it found."""
    flags = (f"--config={EXPERIMENT}", f"--workdir={folder}", "--progress=plain", *overrides)
    command, search = [sys.executable, "-m", "mmids_cnn.main", *flags], 0.0
    environment, began = {**os.environ, "PYTHONUNBUFFERED": "1"}, time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if SETTLED.match(line):
                search = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"halving: {' '.join(command)} ended with {process.returncode}")
    best = json.loads((folder / "best.json").read_text())
    kept = ("trial", "settings", "metric", "validation", "confirmed")
    return {
        "search_seconds": search,
        "seconds": time.perf_counter() - began,
        "best": {name: best[name] for name in kept},
        "provenance": json.loads((folder / "provenance.json").read_text()),
    }


def main() -> None:
    """Runs all, shows the share of time, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder to keep the sweeps in")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "lr_sweep_cpu.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.keep or Path(folder)
        arms = {name: play(place / name, overrides) for name, overrides in ARMS.items()}
    sources = [arm.pop("provenance") for arm in arms.values()]
    base = lr_sweep.get_config().optimizer.learning_rate
    record = {
        "command": "make sweeps",
        "experiment": EXPERIMENT,
        "base_learning_rate": base,
        "provenance": source(sources[-1]),
        "arms": arms,
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    half, whole, again = (arms[name]["search_seconds"] for name in ARMS)
    print(
        f"halving took {100 * half / whole:.0f} and {100 * again / whole:.0f} % of the time of the whole grid"
    )


if __name__ == "__main__":
    main()
