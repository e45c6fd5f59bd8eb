"""What a sweep leaves behind: `trials.csv`, `best.json`, `winner.py`, and `report.html` with pictures."""

import csv
import io
import json
import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import metrics
from mmids_cnn.pages import statistics
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import report
from mmids_cnn.sweeps.folder import REPORT, TRIALS, WINNER
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.progress import describe
from mmids_cnn.sweeps.trials import Result, Scores


def write(
    plan: Plan,
    workdir: Path,
    results: Sequence[Result],
    winner: Result | None,
    confirmed: Scores,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes all files; returns the content of `best.json`, which is written last.

    Args:
      plan: the sweep.
      workdir: its folder.
      results: of all trials.
      winner: the best one; None if all diverged, and there is no `best.json` then.
      confirmed: for 'winner' and, if it was trained, 'base', the scores of each seed: `seed`, `diverged` and
        `test/...`; empty without a confirmation.
      before: the content of `best.json`, where nothing was trained since.
    """
    files.write_text(workdir / TRIALS, _csv(plan, results))
    best: dict[str, Any] = {}
    if winner is not None:
        files.write_text(workdir / WINNER, _experiment_file(plan, winner, workdir))
        values = [one["value"] for one in winner.seeds]
        best = {
            "trial": winner.number,
            "settings": winner.settings,
            "metric": plan.sweep.metric,
            "weights": config_lib.weights(plan.confirmed(winner.settings, plan.experiment.seed)),
            **({"validation": statistics.spread(values)} if values else {}),
            "confirmed": {name: _confirmed(scores) for name, scores in confirmed.items()},
            "command": sweep_folder.command(workdir),
        }
        best["summary"] = _summary(plan, best)
    files.write_text(workdir / REPORT, report.page(plan, workdir, results, winner, best, confirmed))
    if best:
        sweep_folder.write_best(workdir, best, before or {})
    return best


def _confirmed(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    finite = [one for one in scores if one["diverged"] is None]
    found: dict[str, Any] = {"seeds": [dict(one) for one in scores], "diverged": len(scores) - len(finite)}
    if finite:
        found |= {
            name: statistics.spread([one[name] for one in finite]) for name in ("test/accuracy", "test/loss")
        }
        found["test/count"] = finite[0]["test/count"]
    return found


def _summary(plan: Plan, best: Mapping[str, Any]) -> str:
    lines = []
    if plan.axes:
        found = _interval(plan.metric, best["validation"])
        lines.append(
            f"best: trial {best['trial']}, {describe(best['settings'])}: {plan.sweep.metric} {found}"
            f"{_by(best['weights'])}"
        )
    accuracy = metrics.metric("accuracy")
    held_out = plan.experiment.dataset.validation_examples if plan.experiment.train.patience else 0
    images = f"all but {held_out:,}" if held_out else "all"
    titles = {"winner": "the winner" if plan.axes else "the experiment", "base": "as configured"}
    weights = {"winner": best["weights"], "base": config_lib.weights(plan.experiment)}
    for name, title in titles.items():
        scores = best["confirmed"].get(name)
        if scores and "test/accuracy" in scores:
            lost = f", {scores['diverged']} more diverged" if scores["diverged"] else ""
            lines.append(
                f"{title}, on {images} training images: {_interval(accuracy, scores['test/accuracy'])} "
                f"of {scores['test/count']:,} test images right{_by(weights[name])}{lost}"
            )
        elif scores:
            lines.append(f"{title}, on {images} training images: all {scores['diverged']} seeds diverged")
    return "\n".join(lines)


def _by(weights: str) -> str:
    return ", by averaged weights" if weights == "averaged" else ""


def _interval(metric: metrics.Metric, found: Mapping[str, Any]) -> str:
    return metric.show_mean(found["mean"], found["sd"], found["n"], found["interval"])


def _csv(plan: Plan, results: Sequence[Result]) -> str:
    leaves = [axis.leaf for axis in plan.axes]
    columns = [f"{plan.sweep.metric}, seed {seed}" for seed in plan.seeds]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "state", "epochs", plan.sweep.metric, *columns, *leaves])
    for result in results:
        epochs = max((one["rows"][-1]["epoch"] for one in result.seeds if one["rows"]), default=0)
        values = [one["value"] for one in result.seeds]
        row = [result.number, result.state, f"{epochs:g}", result.value, *values]
        writer.writerow(["" if x is None else x for x in [*row, *(result.settings[leaf] for leaf in leaves)]])
    return out.getvalue()


def _experiment_file(plan: Plan, winner: Result, workdir: Path) -> str:
    """An experiment file of the winner: complete, so that it stays what it is when other files change."""
    seed = plan.confirm_seeds[0] if plan.confirm_seeds else plan.experiment.seed
    experiment = plan.confirmed(winner.settings, seed)
    tree = config_lib.to_dict(experiment)
    tree["eval"]["every_epochs"] = plan.experiment.eval.every_epochs
    tree["dataset"]["placement"] = plan.experiment.dataset.placement
    title = f"The best of the sweep {workdir.name}, trial {winner.number}: {describe(winner.settings)}."
    return (
        f'"""{json.dumps(title, ensure_ascii=False)[1:-1]}"""\n\n'  # JSON's escapes are Python's too
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config() -> ConfigDict:\n"
        '    """Returns the complete configuration."""\n'
        "    return ConfigDict(\n"
        f"{_indent(pprint.pformat(tree, sort_dicts=False, width=90), 8)}\n"
        "    )\n"
    )


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.splitlines())
