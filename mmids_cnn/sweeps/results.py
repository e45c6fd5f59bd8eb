"""What a sweep leaves behind: `trials.csv`, `best.json`, `winner.py`, and `report.html` with pictures."""

import csv
import html
import io
import json
import pprint
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmids_cnn import config as config_lib
from mmids_cnn.storage import files
from mmids_cnn.sweeps import figures
from mmids_cnn.sweeps.plan import BEST, REPORT, TRIALS, WINNER, Plan
from mmids_cnn.sweeps.progress import describe, show
from mmids_cnn.sweeps.study import COMPLETE, Result

_RESAMPLES = 10_000
_FEWEST = 5  # values that an interval is given for


def write(
    plan: Plan, workdir: Path, results: Sequence[Result], winner: Result | None, confirmed: figures.Scores
) -> dict[str, Any]:
    """Writes all files; returns the content of `best.json`, which is written last.

    Args:
      plan: the sweep.
      workdir: its folder.
      results: of all trials.
      winner: the best one; None if all diverged, and there is no `best.json` then.
      confirmed: for 'winner' and, if it was trained, 'base', the scores of each seed: `seed`, `diverged` and
        `test/...`; empty without a confirmation.
    """
    files.write_text(workdir / TRIALS, _csv(plan, results))
    best: dict[str, Any] = {}
    if winner is not None:
        command = f"python -m mmids_cnn.main --config={shlex.quote(str(workdir / WINNER))}"
        files.write_text(workdir / WINNER, _experiment_file(plan, winner, workdir))
        values = [one["value"] for one in winner.seeds]
        best = {
            "trial": winner.number,
            "settings": winner.settings,
            "metric": plan.sweep.metric,
            **({"validation": spread(values)} if values else {}),
            "confirmed": {name: _confirmed(scores) for name, scores in confirmed.items()},
            "command": f"{command} --workdir={shlex.quote(str(workdir / 'winner'))}",
        }
        best["summary"] = _summary(plan, best, workdir)
    files.write_text(workdir / REPORT, _page(plan, workdir, results, winner, best, confirmed))
    if best:
        files.write_json(workdir / BEST, best)
    return best


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1), n, and a 95 % bootstrap interval of the mean.

    The interval is that of percentiles over resampled seeds (Efron 1979), with a generator of fixed seed;
    None for fewer than five values, whose interval would be little but their range. The deviation is None for
    a single value.

    >>> spread([1.0, 2.0, 3.0])["mean"], spread([1.0, 2.0, 3.0])["sd"], spread([0.5])["sd"]
    (2.0, 1.0, None)
    """
    found: dict[str, Any] = {"mean": statistics.fmean(values), "sd": None, "n": len(values), "interval": None}
    if len(values) > 1:
        found["sd"] = statistics.stdev(values)
    if len(values) >= _FEWEST:
        chosen = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
        means = np.asarray(values)[chosen].mean(axis=1)
        found["interval"] = [float(x) for x in np.quantile(means, (0.025, 0.975))]
    return found


def _confirmed(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    finite = [one for one in scores if one["diverged"] is None]
    found: dict[str, Any] = {"seeds": [dict(one) for one in scores], "diverged": len(scores) - len(finite)}
    if finite:
        found |= {name: spread([one[name] for one in finite]) for name in ("test/accuracy", "test/loss")}
        found["test/count"] = finite[0]["test/count"]
    return found


def _summary(plan: Plan, best: Mapping[str, Any], workdir: Path) -> str:
    lines = []
    if plan.axes:
        found = _interval(plan.sweep.metric, best["validation"])
        lines.append(
            f"best: trial {best['trial']}, {describe(best['settings'])}: {plan.sweep.metric} {found}"
        )
    titles = {"winner": "the winner" if plan.axes else "the experiment", "base": "as configured"}
    for name, title in titles.items():
        scores = best["confirmed"].get(name)
        if scores and "test/accuracy" in scores:
            lost = f", {scores['diverged']} more diverged" if scores["diverged"] else ""
            lines.append(
                f"{title}, on all training images: {_interval('test/accuracy', scores['test/accuracy'])} "
                f"of {scores['test/count']:,} test images right{lost}"
            )
        elif scores:
            lines.append(f"{title}, on all training images: all {scores['diverged']} seeds diverged")
    lines.append(f"report: {workdir / REPORT}; trials: {workdir / TRIALS}; best: {workdir / BEST}")
    lines.append(f"train it: {best['command']}")
    return "\n".join(lines)


def _interval(metric: str, found: Mapping[str, Any]) -> str:
    if found["sd"] is None:
        return f"{show(metric, found['mean'])} (n = 1)"
    scale, unit, digits = (100, " %", 2) if metric.endswith("accuracy") else (1, "", 4)
    mean, sd, *ends = (
        f"{scale * x:.{digits}f}" for x in (found["mean"], found["sd"], *(found["interval"] or ()))
    )
    interval = f", 95 % interval {ends[0]} to {ends[1]}" if ends else ""
    return f"{mean} ± {sd}{unit} (n = {found['n']}{interval})"


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


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 68rem; margin: 2.5rem auto;
  padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
p.lead { font-size: 1.05rem; white-space: pre-line } figure { margin: 0 } img { width: 100%; height: auto }
figcaption { color: #5a6676; font-size: .9rem; max-width: 50rem }
table { border-collapse: collapse; font: 13px/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums } div.wide { overflow-x: auto }
th, td { text-align: left; padding: .25rem .9rem .25rem .3rem; border-bottom: 1px solid #e3e7ec;
  white-space: nowrap }
tr.best td { font-weight: 600; background: #eef6f1 } tr.out td { color: #8a93a0 }
pre { font: 13px/1.5 ui-monospace, monospace; background: #f4f6f8; padding: .7rem .9rem; overflow-x: auto }
"""


def _page(
    plan: Plan,
    workdir: Path,
    results: Sequence[Result],
    winner: Result | None,
    best: Mapping[str, Any],
    confirmed: figures.Scores,
) -> str:
    pictures = figures.draw(plan, results, winner, confirmed)
    shown = "".join(
        f"<h2>{html.escape(one.title)}</h2>\n<figure><img alt={html.escape(json.dumps(one.title))} "
        f'src="data:image/svg+xml;base64,{one.content}">\n'
        f"<figcaption>{html.escape(one.caption)}</figcaption></figure>\n"
        for one in pictures
    )
    lead = best.get("summary", "Every trial diverged.").split("\nreport: ")[0]
    command = f"<h2>Train it</h2>\n<pre>{html.escape(best['command'])}</pre>\n" if best else ""
    configuration = html.escape(json.dumps(plan.to_dict(), indent=2))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Sweep {html.escape(workdir.name)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>Sweep {html.escape(workdir.name)}</h1>\n<p class=lead>{html.escape(lead)}</p>\n"
        f"{command}{shown}{_table(plan, results, winner)}"
        f"<h2>The plan</h2>\n<pre>{configuration}</pre>\n</html>\n"
    )


def _table(plan: Plan, results: Sequence[Result], winner: Result | None) -> str:
    if not results:
        return ""
    leaves = [axis.leaf for axis in plan.axes]
    heads = "".join(
        f"<th>{html.escape(name)}" for name in ("trial", *leaves, plan.sweep.metric, "seeds", "state")
    )
    sign = -1 if plan.sweep.direction == "maximize" else 1

    def key(one: Result) -> tuple[bool, float, int]:
        return (
            one.state != COMPLETE,
            sign * one.value if one.value is not None else float("inf"),
            one.number,
        )

    rows = ""
    for one in sorted(results, key=key):
        kind = "best" if winner and one.number == winner.number else "" if one.state == COMPLETE else "out"
        cells = [describe({"": one.settings[leaf]}).removeprefix("=") for leaf in leaves]
        each = "  ".join(show(plan.sweep.metric, seed["value"]) or "-" for seed in one.seeds)
        cells = [str(one.number), *cells, show(plan.sweep.metric, one.value), each, one.state]
        rows += f"<tr class='{kind}'>" + "".join(f"<td>{html.escape(cell)}" for cell in cells) + "\n"
    return f"<h2>All trials</h2>\n<div class=wide><table><tr>{heads}\n{rows}</table></div>\n"
