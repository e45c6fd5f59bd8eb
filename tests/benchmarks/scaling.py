"""How cost grows with batch size, channel width, data set size and number of models at once.

    python tests/benchmarks/scaling.py            # writes scaling_cpu.json and scaling.png
    python tests/benchmarks/scaling.py --quick    # 4,096 images; writes only with --record

Each point is a process of its own, and in every round each trains one epoch in turn, in a new order: a
machine whose speed drifts slows all of them alike. Where size is not the subject an epoch is 16,384 images, a
whole number of batches of every size. Cost is given as time an image and model, and as its ratio to that of
the base in the same round; the base is a point of three of the curves.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console
from rich.progress import Progress

from bench import ARCHIVES, BATCH_SIZE, CHANNELS, CPU_ONLY, HERE, write_arrays
from child import Child, ChildError
from record import machine, summary
from table import print_table, scaling_rows

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGES = 16_384
TITLES = {
    "batch size": "images a batch",
    "channel width": "times 16, 32, 32 channels",
    "training images": "images an epoch",
    "models at once": "models in one program (on a CPU one after another)",
}


@dataclass
class Point:
    """Settings of a process, with what was measured of it; `places` are the curves it is a point of."""

    batch_size: int = BATCH_SIZE
    width: int = 1
    images: int = IMAGES
    population: int = 1
    places: list[tuple[str, int]] = field(default_factory=list)
    child: Child | None = None
    reason: str = ""
    raw: list[dict[str, float]] = field(default_factory=list)
    accuracy: float = 0.0
    peak_rss_bytes: float = 0.0

    def start(self, data: str) -> None:
        """Starts the process; it stays idle but for its turns."""
        channels = ",".join(str(c * self.width) for c in CHANNELS)
        command = [sys.executable, str(HERE / "peers" / "ours.py"), "--data", data, "--channels", channels]
        for name in ("batch_size", "images", "population"):
            command += [f"--{name}", str(getattr(self, name))]
        self._attempt(lambda: setattr(self, "child", Child(command, CPU_ONLY)))

    def turn(self) -> None:
        """One epoch."""
        self._attempt(lambda: self.raw.append(self._running.ask("epoch")))

    def end(self) -> None:
        """Scores, and ends the process."""
        self._attempt(lambda: setattr(self, "accuracy", self._running.ask("evaluate")["accuracy"]))
        self._attempt(lambda: setattr(self, "peak_rss_bytes", self._running.quit()["peak_rss_bytes"]))

    def costs(self) -> list[float]:
        """Seconds an image and model, of each round."""
        return [reply["seconds"] / (self.images * self.population) for reply in self.raw]

    def records(self, base: list[float]) -> list[dict[str, Any]]:
        """Its line of the record for each curve; `base` are the costs to compare with."""
        settings = {name: getattr(self, name) for name in ("batch_size", "width", "images", "population")}
        lines = [{"axis": axis, "value": value} | settings for axis, value in self.places]
        if self.reason:
            return [line | {"status": "did not run", "reason": self.reason} for line in lines]
        first = self._running.first_reply
        pairs = zip(self.costs(), base, strict=False)  # too few where the base broke down
        shares = [cost / other for cost, other in pairs]
        measured = {
            "status": "ok",
            "epoch_seconds": summary([reply["seconds"] for reply in self.raw]),
            "image_seconds": summary(self.costs()),
            "times_base": summary(shares) if shares else None,
            "compile_seconds": first["compile_seconds"] + first["prepare_seconds"],
            "peak_rss_bytes": self.peak_rss_bytes,
            "accuracy": self.accuracy,
            "raw": self.raw,
        }
        return [line | measured for line in lines]

    @property
    def _running(self) -> Child:
        assert self.child is not None
        return self.child

    def _attempt(self, step: Callable[[], object]) -> None:
        """Does a step unless one before failed; keeps why."""
        if self.reason:
            return
        try:
            step()
        except ChildError as error:
            self.reason = str(error)


def points(quick: bool) -> list[Point]:
    """Every process to run; the first is the base, which is a point of several curves."""
    images = 4096 if quick else IMAGES
    full = images if quick else 60_000
    base = Point(images=images)
    made = {(base.batch_size, base.width, base.images, base.population): base}
    for axis, name, values in (
        ("batch size", "batch_size", (32, 64, 128, 256, 512, 1024, 2048, 4096)),
        ("channel width", "width", (1, 2, 4)),
        ("training images", "images", (full, 4 * full)),
        ("models at once", "population", (1, 4, 16)),
    ):
        for value in values:
            point = Point(**{"images": images, name: value})
            key = (point.batch_size, point.width, point.images, point.population)
            made.setdefault(key, point).places.append((axis, value))
    return list(made.values())


def plot(record: dict, path: Path) -> None:
    """One panel an axis, both scales logarithmic, each point labelled with its cost and memory."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7.5), layout="constrained", sharey=True)
    for panel, (axis, label) in zip(panels.flat, TITLES.items(), strict=True):
        done = [p for p in record["points"] if p["axis"] == axis and p["status"] == "ok"]
        values = [point["value"] for point in done]
        costs, low, high = (
            [point["image_seconds"][name] * 1e6 for point in done] for name in ("median", "min", "max")
        )
        panel.loglog(values, costs, "o-", color="tab:blue")
        panel.fill_between(values, low, high, color="tab:blue", alpha=0.2)
        for value, cost, point in zip(values, costs, done, strict=True):
            text = f"{cost:.0f} µs\n{point['peak_rss_bytes'] / 1e9:.1f} GB"
            place = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            panel.annotate(text, (value, cost), (0, 8), **place)
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
        panel.margins(x=0.12, y=0.3)
        panel.set(xlabel=label, ylabel="µs an image and model", title=f"Cost by {axis}")
        panel.grid(alpha=0.3)
    machine_name = f"{record['machine']['cpu']}, {record['machine']['cores']} cores"
    figure.suptitle(f"Training cost on {machine_name}; below each cost, peak memory of the process")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="folder of IDX archives")
    parser.add_argument("--rounds", type=int, default=5, help="epochs a point")
    parser.add_argument("--quick", action="store_true", help="4,096 images, to try it out")
    parser.add_argument("--record", type=Path, help="JSON to write, as in bench.py")
    args, console = parser.parse_args(), Console()
    if not args.quick:
        args.record = args.record or HERE / "records" / "scaling_cpu.json"
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(args.archives, Path(folder))
        everyone = points(args.quick)
        with Progress(console=console) as progress:
            task = progress.add_task("starting", total=len(everyone) * (args.rounds + 1))
            for point in everyone:
                point.start(folder)
                progress.advance(task)
            for turn in range(args.rounds):
                progress.update(task, description=f"round {turn + 1} of {args.rounds}")
                for point in random.Random(turn).sample(everyone, len(everyone)):
                    point.turn()
                    progress.advance(task)
        for point in everyone:
            point.end()
    settings = {"rounds": args.rounds, "quick": args.quick}
    done = [line for point in everyone for line in point.records(everyone[0].costs())]
    done.sort(key=lambda line: (list(TITLES).index(line["axis"]), line["value"]))
    record = {"machine": machine(), "settings": settings, "points": done}
    print_table(console, *scaling_rows(record))
    for line in done:
        foreign = max((reply["foreign_cores"] for reply in line.get("raw", [])), default=0.0)
        if foreign > 0.1:
            text = f"{line['axis']} {line['value']}: other processes used {foreign:.1f} cores"
            console.print(text, style="red", markup=False)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")
        plot(record, args.record.parent / "scaling.png")


if __name__ == "__main__":
    main()
