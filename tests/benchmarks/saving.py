"""Times what saving a checkpoint after every epoch costs: the share by which it slows training down.

    python tests/benchmarks/saving.py

In each round one epoch of MNIST is timed alone and one from the call that saves the state before it: that
call takes the digests of all leaves and a copy, and what Orbax then writes in the background competes with
the epoch. Which one comes first alternates.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmids_cnn.devices import cores

cores.as_devices()  # before JAX is imported, as the command line does

import jax
from flax import serialization
from rich.console import Console

from mmids_cnn import config, data, feed, train
from mmids_cnn.storage import checkpoints
from record import machine, summary

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1]))  # the checkout, for `experiments`

from experiments import base


class Trainer:
    """The reference recipe, an epoch at a time, with checkpoints as a run has them."""

    def __init__(self, folder: Path) -> None:
        experiment = config.resolve(base.get_config())
        dataset = data.load(experiment.dataset)
        self._meta = {"config": config.to_dict(experiment), "data": dataset.fingerprint, "rows": []}
        self._checkpoints = checkpoints.Saver(folder, experiment.checkpoint.keep)
        self._feed = feed.make(experiment, dataset.splits["train"])
        self._state = train.init_state(experiment, dataset)
        self._feed.compile(self._state)
        self._epoch = 0

    def epoch(self) -> float:
        """Seconds of one epoch."""
        began = time.perf_counter()
        steps = self._feed.steps_per_epoch
        self._state = jax.block_until_ready(self._feed.advance(self._state, self._epoch, 0, steps))
        self._epoch += 1
        return time.perf_counter() - began

    def save(self) -> float:
        """Seconds that training waits while a save is started."""
        began = time.perf_counter()
        tree = serialization.to_state_dict(self._state)
        self._checkpoints.save(int(self._state.step), tree, self._meta, self._epoch)
        return time.perf_counter() - began

    def wait(self) -> None:
        """Returns when nothing is being written."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Ends the writing thread."""
        self._checkpoints.close()


def play(trainer: Trainer, rounds: int) -> dict[str, list[float]]:
    """Seconds of epochs alone, of epochs with the save before them, and of the call that starts a save."""
    raw: dict[str, list[float]] = {"epoch": [], "epoch_and_save": [], "save_call": []}
    trainer.epoch()
    for turn in range(rounds):
        for saving in (False, True) if turn % 2 else (True, False):
            call = trainer.save() if saving else 0.0
            seconds = call + trainer.epoch()
            trainer.wait()
            raw["epoch_and_save" if saving else "epoch"].append(seconds)
            raw["save_call"] += [call] * saving
    return raw


def main() -> None:
    """Measures, shows the share and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="epochs of each kind")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "saving.json", help="JSON to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Trainer(Path(folder))) as trainer:
        raw = play(trainer, arguments.rounds)
    shares = [both / alone - 1 for alone, both in zip(raw["epoch"], raw["epoch_and_save"], strict=True)]
    record: dict[str, Any] = {
        "command": "python tests/benchmarks/saving.py",
        "machine": machine(),
        "rounds": arguments.rounds,
        "seconds": {name: summary(values) for name, values in raw.items()},
        "share": summary(shares),
    }
    arguments.record.parent.mkdir(exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    share, call = statistics.median(shares), statistics.median(raw["save_call"])
    Console().print(
        f"saving each epoch takes {100 * share:.2f} % more time (median of {arguments.rounds}); "
        f"training waits {1000 * call:.0f} ms of it"
    )


if __name__ == "__main__":
    main()
