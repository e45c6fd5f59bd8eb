"""The report of a sweep: one page with its result, pictures, trials and plan."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmids_cnn.pages import page as pages
from mmids_cnn.sweeps import figures
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.progress import describe, show
from mmids_cnn.sweeps.trials import COMPLETE, Result, Scores


def page(
    plan: Plan,
    workdir: Path,
    results: Sequence[Result],
    winner: Result | None,
    best: Mapping[str, Any],
    confirmed: Scores,
) -> str:
    """The page of a sweep, as HTML.

    Args:
      plan: the sweep.
      workdir: its folder.
      results: of all trials.
      winner: the best one; None if all diverged.
      best: the content of `best.json`, empty without a winner.
      confirmed: the scores of the confirmation.
    """
    pictures = figures.draw(plan, results, winner, confirmed)
    shown = "".join(
        f"<h2>{html.escape(one.title)}</h2>\n{pages.figure(one.content, one.title, one.caption)}"
        for one in pictures
    )
    lead = best.get("summary", "Every trial diverged.")
    command = f"<h2>Train it</h2>\n<pre>{html.escape(best['command'])}</pre>\n" if best else ""
    configuration = html.escape(json.dumps(plan.to_dict(), indent=2))
    return pages.page(
        f"Sweep {workdir.name}",
        lead,
        f"{command}{shown}{_table(plan, results, winner)}<h2>The plan</h2>\n<pre>{configuration}</pre>\n",
    )


def _table(plan: Plan, results: Sequence[Result], winner: Result | None) -> str:
    if not results:
        return ""
    leaves = [axis.leaf for axis in plan.axes]
    heads = "".join(
        f"<th>{html.escape(name)}" for name in ("trial", *leaves, plan.sweep.metric, "seeds", "state")
    )

    def key(one: Result) -> tuple[bool, float, int]:
        value = math.inf if one.value is None else -plan.metric.better(one.value)
        return (one.state != COMPLETE, value, one.number)

    rows = ""
    for one in sorted(results, key=key):
        kind = "best" if winner and one.number == winner.number else "" if one.state == COMPLETE else "out"
        cells = [describe({"": one.settings[leaf]}).removeprefix("=") for leaf in leaves]
        each = "  ".join(show(plan.metric, seed["value"]) or "-" for seed in one.seeds)
        cells = [str(one.number), *cells, show(plan.metric, one.value), each, one.state]
        rows += f"<tr class='{kind}'>" + "".join(f"<td>{html.escape(cell)}" for cell in cells) + "\n"
    return f"<h2>All trials</h2>\n<div class=wide><table><tr>{heads}\n{rows}</table></div>\n"
