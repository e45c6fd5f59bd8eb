"""Runs `experiments/lr_sweep.py` with and without successive halving: what is found, and in what time.

    python tests/benchmarks/halving.py

Three real commands, each into a folder of its own: the search with halving, the search of the whole grid, and
the experiment as it is, which also confirms its winner. The first two are timed against each other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXPERIMENT = "experiments/lr_sweep.py"
ARMS = {
    "halving": ("--config.sweep.confirm_seeds=0",),
    "whole grid": ("--config.sweep.confirm_seeds=0", "--config.sweep.halving=0"),
    "as it is": (),
}


def play(folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Runs the experiment in an empty folder; returns the seconds it took and what it found."""
    flags = (f"--config={EXPERIMENT}", f"--workdir={folder}", "--progress=plain", *overrides)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmids_cnn.main", *flags], cwd=ROOT, check=True)
    seconds = time.perf_counter() - began
    best = json.loads((folder / "best.json").read_text())
    kept = ("trial", "settings", "metric", "validation", "confirmed")
    provenance = json.loads((folder / "provenance.json").read_text())
    return {"seconds": seconds, "best": {name: best[name] for name in kept}, "provenance": provenance}


def main() -> None:
    """Runs all, shows the share of time, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, default=HERE / "records" / "lr_sweep_cpu.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder) / "first", (*ARMS["halving"], "--config.num_epochs=1"))  # compiles
        arms = {name: play(Path(folder) / name, overrides) for name, overrides in ARMS.items()}
    sources = [arm.pop("provenance") for arm in arms.values()]
    source = {name: value for name, value in sources[-1].items() if name not in ("command", "seed")}
    record = {"command": "make sweeps", "experiment": EXPERIMENT, "provenance": source, "arms": arms}
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    share = arms["halving"]["seconds"] / arms["whole grid"]["seconds"]
    print(f"halving took {100 * share:.0f} % of the time of the whole grid")


if __name__ == "__main__":
    main()
