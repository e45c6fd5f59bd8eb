"""What the reference recipe learns with plain layers, to compare with records/base_cpu.json.

    python tests/benchmarks/accuracy.py

Trains the recipe with the program of peers/plain_flax.py, whose layers are `nn.Conv` and `nn.max_pool`, and
which draws initial weights and orders of examples by generators of its own: the two samples are independent.
table.py compares them by Welch's t.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE / "peers"), str(HERE.parents[1])]  # the peers, and the checkout for `experiments`

from plain_flax import FlaxRunner

from bench import ARCHIVES, write_arrays
from experiments import base
from mmids_cnn import config, data
from mmids_cnn.runs import provenance
from protocol import load
from record import source

SEEDS = range(5)


def train_plain(settings: config.Experiment, seed: int, arrays: Path) -> float:
    """Test accuracy of plain Flax after the last epoch."""
    channels = list(settings.model.channels)
    arguments = argparse.Namespace(batch_size=settings.batch_size, channels=channels, seed=seed)
    runner = FlaxRunner(arguments, load(arrays, 60_000))
    for _ in range(settings.num_epochs):
        runner.epoch()
    return runner.evaluate()


def main() -> None:
    """Trains with each seed and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, default=HERE / "records" / "plain_cpu.json")
    arguments, console = parser.parse_args(), Console()
    experiment, scores = config.resolve(base.get_config()), []
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(ARCHIVES, Path(folder))
        for seed in SEEDS:
            scores.append(train_plain(experiment, seed, Path(folder)))
            console.print(f"seed {seed}: {100 * scores[-1]:.2f} %")
    record = {
        "command": "python tests/benchmarks/accuracy.py",
        "provenance": source(provenance.collect(experiment, data.load(experiment.dataset))),
        "seeds": list(SEEDS),
        "test/accuracy": scores,
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
