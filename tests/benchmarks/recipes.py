"""Trains the recipes of `experiments/` over seeds, by the real command line, and records what comes out.

    python tests/benchmarks/recipes.py                        # all of them; many hours
    python tests/benchmarks/recipes.py --only=fast,strong     # some
    python tests/benchmarks/recipes.py --only=record --population   # its seeds as one program, for a GPU
    python tests/benchmarks/recipes.py --only=base,strong --timed=5  # in turn, on an idle machine

Each seed is a run of its own, `FOLDER/strong/3`, or all of them are a sweep over nothing, `FOLDER/strong`,
trained on the whole training split and scored once, after the last epoch. What is finished is not trained
again, so that this may be stopped and gone on with; a folder of other settings is refused. The record holds
each recipe's settings, is written after every run, and forgets runs of other settings. An ensemble is five
networks of `record.py`, none of them in two ensembles.

Fashion-MNIST is no part of this repository: `--fashion` names the folder of its four archives.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from child import busy_seconds
from mmids_cnn import config, data, model
from mmids_cnn.config import Experiment
from mmids_cnn.console import experiment_file
from mmids_cnn.errors import RunError, UserError
from mmids_cnn.runs import compare, ensemble
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import members
from record import machine
from table import print_table, recipes_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = {
    "base": 5,
    "fast": 10,
    "one_epoch": 30,
    "strong": 10,
    "small": 10,
    "tiny": 10,
    "fashion": 5,
    "record": 15,
}
MEMBERS = 5  # of an ensemble
KEPT = ("test/accuracy", "test/loss", "test/count", "fingerprint", "epoch", "images_per_second")


def wanted(name: str, seed: int, archives: str) -> Experiment:
    """What is trained of a recipe: scored after its last epoch alone."""
    settings = experiment_file.load(name)
    settings.seed, settings.eval.every_epochs = seed, 0
    settings.dataset.archives = archives or settings.dataset.archives
    return run_folder.anywhere(config.resolve(settings))


def train(name: str, seed: int, folder: Path, archives: str) -> dict[str, Any]:
    """Trains a recipe with a seed, unless that is done; returns its scores, what it cost, and on what.

    `wall_seconds` count from the command to its end; `foreign_cores` are those that other processes used
    meanwhile, which slow it down.

    Raises:
      RunError: its folder holds a run of other settings.
    """
    workdir = folder / name / str(seed)
    cost = workdir.with_suffix(".json")
    if not (run_folder.check(workdir, wanted(name, seed, archives)) and cost.exists()):
        more = [f"--config.dataset.archives={archives}"] if archives else []
        command = [sys.executable, "-m", "mmids_cnn.main", f"--config=experiments/{name}.py", *more]
        command += [f"--workdir={workdir}", f"--config.seed={seed}", "--config.eval.every_epochs=0"]
        command += ["--progress=plain"]
        began, busy, used = time.perf_counter(), busy_seconds(), os.times()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall, now = time.perf_counter() - began, os.times()
        own = now.children_user + now.children_system - used.children_user - used.children_system
        foreign = max(0.0, (busy_seconds() - busy - own) / wall)
        cost.write_text(json.dumps({"wall_seconds": wall, "foreign_cores": foreign, "machine": machine()}))
    result = json.loads((workdir / "result.json").read_text())
    return {"seed": seed, **{k: result[k] for k in KEPT}, **json.loads(cost.read_text())}


def train_together(name: str, folder: Path, archives: str) -> list[dict[str, Any]]:
    """Trains a recipe with all of its seeds as one population, unless that is done; returns its scores.

    Raises:
      RunError: its folder holds a sweep of other settings.
    """
    workdir, experiment = folder / name, folder / f"{name}_seeds.py"
    folder.mkdir(parents=True, exist_ok=True)
    experiment.write_text(
        f"from experiments import {name}, sweep\n\n\n"
        "def get_config():\n"
        f"    config = sweep.around({name}.get_config())\n"
        "    config.eval.every_epochs = 0\n"
        "    config.sweep.confirm_base = False\n"
        f"    config.sweep.confirm_seeds = config.sweep.population = {SEEDS[name]}\n"
        "    return config\n"
    )
    if not (workdir / sweep_folder.BEST).exists():
        more = [f"--config.dataset.archives={archives}"] if archives else []
        command = [sys.executable, "-m", "mmids_cnn.main", f"--config={experiment}", *more]
        command += [f"--workdir={workdir}", "--config.report=False", "--progress=plain"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for one in sweep_folder.confirmed(workdir):
        if other := compare.different(one, wanted(name, one.seed, archives)):
            raise RunError(f"{workdir}: expected {name}.py, found other {', '.join(other)}; remove it")
    best, made = (
        json.loads((workdir / file).read_text()) for file in (sweep_folder.BEST, run_folder.PROVENANCE)
    )
    where = {
        "device": made["device"]["platform"],
        "kind": made["device"]["kind"],
        "date": datetime.date.fromtimestamp((workdir / sweep_folder.BEST).stat().st_mtime).isoformat(),
        **{key: made[key] for key in ("python", "packages", "git_commit", "git_dirty")},
    }
    seeds = best["confirmed"]["winner"]["seeds"]
    return [{k: one[k] for k in ("seed", *KEPT) if k in one} | {"machine": where} for one in seeds]


def ensembles(folder: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The accuracy of `MEMBERS` networks of `record.py` at a time, none of them in two ensembles."""
    sweep, found = folder / "record", []
    folders = [sweep] if (sweep / sweep_folder.BEST).exists() else [sweep / str(run["seed"]) for run in runs]
    dataset = data.load(config.resolve(experiment_file.load("record")).dataset)
    there = [one for path in folders for one in members.load(path, dataset, "newest", print)]
    test, names = dataset.splits["test"], ("loss", "accuracy")
    for first in range(0, len(runs) - MEMBERS + 1, MEMBERS):
        seeds = [run["seed"] for run in runs[first : first + MEMBERS]]
        chosen = [one.trained for one in there if one.experiment.seed in seeds]
        mean = ensemble.mean([ensemble.logits(one, test.images, 1000, 1) for one in chosen])
        scores = ensemble.scores(names, mean, test.labels)
        found.append({"seeds": seeds} | {f"test/{name}": scores[name] for name in names})
    return found


def describe(name: str) -> dict[str, Any]:
    """What a recipe trains, and for how long."""
    experiment = config.resolve(experiment_file.load(name))
    network = model.make(experiment, (28, 28, 1), 10)
    parameters = sum(row.parameters for row in model.table(network, (28, 28, 1)))
    return {
        "experiment": f"experiments/{name}.py",
        "settings": json.loads(json.dumps(compare.settings(experiment))),
        "parameters": parameters,
        "epochs": experiment.num_epochs,
        "weights": config.weights(experiment),
    }


def entry(record: dict[str, Any], name: str) -> dict[str, Any]:
    """What a record has of a recipe; runs of other settings than those of now are forgotten."""
    recipe, described = record["recipes"].setdefault(name, {}), describe(name)
    if recipe.get("settings") != described["settings"]:
        recipe.clear()
    recipe |= described
    recipe.setdefault("runs", [])
    return recipe


def main() -> None:
    """Trains what is missing, writes the record, shows the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "recipes", help="of the runs")
    parser.add_argument("--only", default=",".join(SEEDS), help="names of recipes")
    parser.add_argument("--fashion", type=Path, help="folder of the archives of Fashion-MNIST")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "recipes.json")
    parser.add_argument("--population", action="store_true", help="train all seeds of a recipe at once")
    parser.add_argument(
        "--timed", type=int, default=0, help="time so many runs of each, in turn; keep the rest"
    )
    arguments, console = parser.parse_args(), Console()
    if machine()["git_dirty"]:
        raise SystemExit(
            "recipes: expected package and experiments as they were committed, so that the record names what "
            "was trained, found changes; commit them"
        )
    record: dict[str, Any] = {"command": "make recipes", "recipes": {}}
    if arguments.record.exists():
        record = json.loads(arguments.record.read_text())
    names, archives = arguments.only.split(","), dict.fromkeys(SEEDS, "")
    if arguments.fashion is not None:
        archives["fashion"] = str(arguments.fashion.absolute())
    elif "fashion" in names:
        console.print("fashion: left out; --fashion=FOLDER names the folder of its archives")
        names.remove("fashion")

    def write() -> None:
        record["date"] = datetime.date.today().isoformat()
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")

    if arguments.timed:
        timed: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(arguments.timed):
                for name in names:
                    timed[name].append(train(name, seed, Path(folder), archives[name]))
                    console.print(f"{name}, seed {seed}: {timed[name][-1]['wall_seconds']:.1f} s")
        for name in names:
            entry(record, name)["timed"] = timed[name]
        write()
    for name in () if arguments.timed else names:
        recipe = entry(record, name)
        recipe["runs"] = []
        if arguments.population:
            recipe["runs"] = train_together(name, arguments.folder, archives[name])
        for seed in range(len(recipe["runs"]), SEEDS[name]):
            recipe["runs"].append(train(name, seed, arguments.folder, archives[name]))
            console.print(f"{name}, seed {seed}: {100 * recipe['runs'][-1]['test/accuracy']:.2f} %")
            write()
        if name == "record":
            recipe["ensembles"] = ensembles(arguments.folder, recipe["runs"])
        write()
    print_table(console, *recipes_rows(record))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"recipes: {error}") from error
