"""How cost grows with batch size, channel width, data set size and number of models at once.

    python tests/benchmarks/scaling.py            # writes scaling_cpu.json and scaling.png
    python tests/benchmarks/scaling.py --quick    # 4,096 images; writes only with --record

Each point is a process of its own. Where size is not the subject an epoch is 16,384 images, a whole
number of batches of every size; cost is given as time an image and model.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from rich.console import Console

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


def points(quick: bool) -> list[dict]:
    """Every process to run: what is varied, its value, and the arguments that set it."""
    images = 4096 if quick else IMAGES
    full = images if quick else 60_000
    axes: dict[str, Sequence[int]] = {
        "batch size": (32, 64, 128, 256, 512, 1024, 2048, 4096),
        "channel width": (1, 2, 4),
        "training images": (full, 4 * full),
        "models at once": (1, 4, 16),
    }
    base = {"batch_size": BATCH_SIZE, "width": 1, "images": images, "population": 1}
    key = dict(zip(axes, base, strict=True))
    return [
        {"axis": axis, "value": value} | base | {key[axis]: value}
        for axis, values in axes.items()
        for value in values
    ]


def measure(point: dict, data: str, rounds: int) -> dict:
    """Trains `rounds` epochs in a fresh process; returns the point with what was measured."""
    channels = ",".join(str(c * point["width"]) for c in CHANNELS)
    command = [sys.executable, str(HERE / "peers" / "ours.py"), "--data", data]
    command += ["--channels", channels]
    for name in ("batch_size", "images", "population"):
        command += [f"--{name}", str(point[name])]
    try:
        child = Child(command, CPU_ONLY)
        replies = [child.ask("epoch") for _ in range(rounds)]
        accuracy, peak = child.ask("evaluate")["accuracy"], child.quit()["peak_rss_bytes"]
    except ChildError as error:
        return point | {"status": "did not run", "reason": str(error)}
    seconds = [reply["seconds"] for reply in replies]
    trained, first = point["images"] * point["population"], child.first_reply
    return point | {
        "status": "ok",
        "epoch_seconds": summary(seconds),
        "image_seconds": summary([value / trained for value in seconds]),
        "compile_seconds": first["compile_seconds"] + first["prepare_seconds"],
        "peak_rss_bytes": peak,
        "accuracy": accuracy,
        "raw": replies,
    }


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
    parser.add_argument("--rounds", type=int, default=3, help="epochs a point")
    parser.add_argument("--quick", action="store_true", help="4,096 images, to try it out")
    parser.add_argument("--record", type=Path, help="JSON to write, as in bench.py")
    args, console = parser.parse_args(), Console()
    if not args.quick:
        args.record = args.record or HERE / "records" / "scaling_cpu.json"
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(args.archives, Path(folder))
        done = []
        for point in points(args.quick):
            console.print(f"{point['axis']}: {point['value']}", markup=False)
            done.append(measure(point, folder, args.rounds))
    settings = {"rounds": args.rounds, "quick": args.quick}
    record = {"machine": machine(), "settings": settings, "points": done}
    print_table(console, *scaling_rows(record))
    for point in done:
        foreign = max((reply["foreign_cores"] for reply in point.get("raw", [])), default=0.0)
        if foreign > 0.1:
            text = f"{point['axis']} {point['value']}: other processes used {foreign:.1f} cores"
            console.print(text, style="red", markup=False)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(record, indent=1) + "\n")
        plot(record, args.record.parent / "scaling.png")


if __name__ == "__main__":
    main()
