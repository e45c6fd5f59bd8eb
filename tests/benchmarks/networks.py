"""Times each network beside the same one in PyTorch, whole recipes beside the same ones there, augmentation.

    python tests/benchmarks/networks.py                       # writes records/networks_cpu.json
    python tests/benchmarks/networks.py --only=augmentation   # one part; the record keeps the others

Each network is two processes, ours and PyTorch's, eager and channels_last; in every round each trains one
epoch of a few thousand images and scores the test images in turn. A recipe is timed from the command to its
result, in turn too, with warm caches and the data prepared. What augmentation costs is shown by epochs of
the reference network with the changes of `strong.py` and without, in turn.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from bench import ARCHIVES, CPU_ONLY, HERE, PEERS_PYTHON, ROOT, install, write_arrays
from child import Child, busy_seconds
from mmids_cnn.console import experiment_file
from record import machine, summary
from table import networks_rows, print_table

RECIPES, AUGMENTED = ("fast", "strong", "small"), "strong"
PARTS = ("recipes", "networks", "augmentation")
IMAGES = {
    "base": 12_800,
    "small": 12_800,
    "tiny": 12_800,
    "one_epoch": 2_560,
    "record": 2_560,
    "fashion": 2_560,
}
"""Images of an epoch, by recipe."""


def start(name: str, arrays: Path) -> dict[str, Child]:
    """The two processes of a network."""
    model = json.dumps(experiment_file.load(name).model.to_dict())
    arguments = ["--data", str(arrays), "--images", str(IMAGES[name]), "--model", model]
    peers = {"ours": (sys.executable, "ours.py"), "PyTorch": (str(PEERS_PYTHON), "torch_eager.py")}
    return {
        who: Child([python, str(HERE / "peers" / script), *arguments], CPU_ONLY)
        for who, (python, script) in peers.items()
    }


def network(name: str, arrays: Path, rounds: int) -> dict[str, Any]:
    """Microseconds an image of both, and of each round the ratio."""
    raw: dict[str, dict[str, list[float]]] = {}
    children, foreign = start(name, arrays), 0.0
    for turn in range(rounds):
        for who in random.Random(turn).sample(list(children), 2):
            for what, images in (("epoch", IMAGES[name]), ("evaluate", 10_000)):
                reply = children[who].ask(what)
                raw.setdefault(what, {}).setdefault(who, []).append(1e6 * reply["seconds"] / images)
                foreign = max(foreign, reply["foreign_cores"])
    for child in children.values():
        child.quit()
    found: dict[str, Any] = {"name": name, "foreign_cores": foreign}
    for what, each in raw.items():
        pairs = zip(each["ours"], each["PyTorch"], strict=True)
        found[what] = {who: summary(values) for who, values in each.items()}
        found[what]["ratio"] = summary([ours / theirs for ours, theirs in pairs])
    return found


def augmentation(name: str, arrays: Path, rounds: int) -> dict[str, Any]:
    """Seconds of an epoch of the reference network with a recipe's changes of images, and without."""
    strengths = {"plain": {}, "augmented": experiment_file.load(name).augment.to_dict()}
    strengths["augmented"].pop("names")
    command = [sys.executable, str(HERE / "peers" / "ours.py"), "--data", str(arrays)]
    children = {who: Child([*command, "--augment", json.dumps(x)], CPU_ONLY) for who, x in strengths.items()}
    raw: dict[str, list[float]] = {who: [] for who in children}
    foreign = 0.0
    for turn in range(rounds):
        for who in random.Random(turn).sample(list(children), 2):
            reply = children[who].ask("epoch")
            raw[who].append(reply["seconds"])
            foreign = max(foreign, reply["foreign_cores"])
    for child in children.values():
        child.quit()
    ratio = summary([with_ / plain for with_, plain in zip(raw["augmented"], raw["plain"], strict=True)])
    return {"name": name, "raw": raw, "ratio": ratio, "foreign_cores": foreign, "machine": machine()}


def recipe(name: str, arrays: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the command to the result, and what that is, of both."""
    settings: ConfigDict = experiment_file.load(name)
    raw: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, "-m", "mmids_cnn.main", f"--config=experiments/{name}.py", "--progress=plain"]
        ours += [f"--config.{one}.every_epochs=0" for one in ("eval", "checkpoint")]  # as PyTorch's does
        ours += ["--config.report=False"]
        theirs = [str(PEERS_PYTHON), str(HERE / "peers" / "torch_recipe.py"), "--data", str(arrays)]
        subprocess.run([*ours, f"--workdir={folder}/warm"], cwd=ROOT, check=True, capture_output=True)
        for turn in range(rounds):
            settings.seed = turn
            workdir = Path(folder) / str(turn)
            commands = {
                "ours": [*ours, f"--workdir={workdir}", f"--config.seed={turn}"],
                "PyTorch": [*theirs, "--config", json.dumps(settings.to_dict())],
            }
            for who in random.Random(turn).sample(list(commands), 2):
                began, busy = time.perf_counter(), busy_seconds()
                done = subprocess.run(commands[who], cwd=ROOT, check=True, capture_output=True, text=True)
                seconds = time.perf_counter() - began
                text = (workdir / "result.json").read_text() if who == "ours" else done.stdout
                figures = {"seconds": seconds, "accuracy": json.loads(text)["test/accuracy"]}
                figures["busy_cores"] = (busy_seconds() - busy) / seconds
                for what, value in figures.items():
                    raw.setdefault(who, {}).setdefault(what, []).append(value)
    pairs = zip(raw["ours"]["seconds"], raw["PyTorch"]["seconds"], strict=True)
    ratio = summary([ours / theirs for ours, theirs in pairs])
    return {"raw": raw, "ratio": ratio, "machine": machine()}


def main() -> None:
    """Measures, writes the record, shows the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts, comma between")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "networks_cpu.json")
    arguments, console = parser.parse_args(), Console()
    if reason := install(("torch", "numpy")):
        raise SystemExit(f"networks: expected to install PyTorch, found: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(ARCHIVES, Path(folder))
        record: dict[str, Any] = {}
        if arguments.record.exists():
            record = json.loads(arguments.record.read_text())
        chosen = arguments.only.split(",")
        if "networks" in chosen:
            record |= {"machine": machine(), "settings": {"rounds": arguments.rounds}}
        for name in RECIPES if "recipes" in chosen else ():
            record.setdefault("recipes", {})[name] = recipe(name, Path(folder), arguments.rounds)
            arguments.record.write_text(json.dumps(record, indent=1) + "\n")
        if "augmentation" in chosen:
            record["augmentation"] = augmentation(AUGMENTED, Path(folder), 2 * arguments.rounds)
        if "networks" in chosen:
            record["networks"] = []
        for name in IMAGES if "networks" in chosen else ():
            record["networks"].append(network(name, Path(folder), arguments.rounds))
            console.print(
                f"{name}: {record['networks'][-1]['epoch']['ratio']['median']:.2f} of PyTorch's time"
            )
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print_table(console, *networks_rows(record))


if __name__ == "__main__":
    main()
