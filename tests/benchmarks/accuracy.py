"""Whether Winograd's products change what the reference recipe learns: Welch's t against direct products.

    python tests/benchmarks/accuracy.py    # after `make reproduce`, whose record it compares with

Trains the recipe with the same seeds, its 3x3 convolutions computed without Winograd's transforms.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from scipy import stats

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1]))  # the checkout, for `experiments`

from experiments import base
from mmids_cnn import config, data, loop, provenance
from mmids_cnn.layers import cpu

WITH = HERE / "records" / "base_cpu.json"


def direct(activations: cpu.BatchLast, kernel: cpu.Kernel) -> cpu.Quarters:
    """The four pixels of each window by one product, for any number of channels."""
    return cpu._four_positions(cpu._tiles(activations, kernel.shape[:2], False), kernel)


def main() -> None:
    """Trains, compares, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, default=HERE / "records" / "winograd_cpu.json")
    arguments, console = parser.parse_args(), Console()
    runs = json.loads(WITH.read_text())["runs"]
    cpu._windows = direct
    experiment = config.resolve(base.get_config())
    dataset, without = data.load(experiment.dataset), []
    for run in runs:
        *_, last = loop.fit(dataclasses.replace(experiment, seed=run["seed"]), dataset)
        assert isinstance(last.row, dict)
        without.append(last.row["test/accuracy"])
        console.print(f"seed {run['seed']}: {100 * without[-1]:.2f} %")
    found = stats.ttest_ind([run["test/accuracy"] for run in runs], without, equal_var=False)
    source = provenance.collect(experiment, dataset)
    record = {
        "command": "python tests/benchmarks/accuracy.py",
        "provenance": {name: value for name, value in source.items() if name not in ("command", "seed")},
        "seeds": [run["seed"] for run in runs],
        "winograd": [run["test/accuracy"] for run in runs],
        "direct": without,
        "welch": {"t": float(found.statistic), "df": float(found.df), "p": float(found.pvalue)},
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"Welch's t {found.statistic:.2f}, p {found.pvalue:.2f}")


if __name__ == "__main__":
    main()
