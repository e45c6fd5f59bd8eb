"""The pictures of a sweep, as SVG: against each setting, parallel coordinates, learning curves, seeds."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from mmids_cnn.pages.axes import height, limits, value_axis
from mmids_cnn.pages.svg import STYLE, Picture, svg
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.scales import place_of
from mmids_cnn.sweeps.trials import COMPLETE, Result, Scores, finite

_BEST, _INK, _PALE, _BROKEN = "#0b7a4b", "#33415c", "#b9c2cf", "#b3423a"
_COLOURS = matplotlib.colormaps["viridis"]


def draw(plan: Plan, results: Sequence[Result], winner: Result | None, confirmed: Scores) -> list[Picture]:
    """All pictures that there is something to show in.

    Args:
      plan: the sweep.
      results: of all trials.
      winner: the best one, which is marked.
      confirmed: the scores of the confirmation, as `report.write` has them.
    """
    metric, pictures, scores = plan.sweep.metric, [], finite(confirmed)
    with matplotlib.rc_context(STYLE):
        if scores:
            several = any(len(each) > 1 for each in scores.values())
            caption = "Test accuracy of each seed that nothing was chosen by, at the last epoch."
            caption += " The bar below is their mean ± sd." if several else " One seed each: no deviation."
            pictures.append(Picture("Confirmation", caption, svg(_confirmation(scores))))
        if any(one.value is not None for one in results):
            seeds = ": the mean over its seeds, and each seed (dashes)" if plan.sweep.seeds > 1 else ""
            caption = (
                f"{metric} of each trial{seeds}, with the trial's number. Grey: stopped at a rung of "
                "halving, with its value there. A cross at the edge: not finite. Ringed and dashed: the best."
            )
            pictures.append(Picture("Against each setting", caption, svg(_against(plan, results, winner))))
            caption = (
                "A line a trial, from setting to setting to its result; from dark, the worst, to light. "
                "Dashed: stopped at a rung of halving. Green: the best."
            )
            pictures.append(Picture("Parallel coordinates", caption, svg(_parallel(plan, results, winner))))
        if any(len(one["rows"]) > 1 for result in results for one in result.seeds):
            caption = (
                f"{metric} after each epoch, a line a member (a trial with a seed), with the trial's number. "
                "From dark, the worst, to light; green: the best trial."
            )
            pictures.append(Picture("Learning curves", caption, svg(_curves(plan, results, winner))))
    return pictures


def _scale(plan: Plan, panel: Axes, label: str) -> None:
    """Marks the axis of the metric, and says that it is none with even steps."""
    how = "log of error" if plan.metric.percent else "log"
    value_axis(panel, f"{label} ({how})".strip(), plan.metric.percent)


def _against(plan: Plan, results: Sequence[Result], winner: Result | None) -> Figure:
    columns = min(3, len(plan.axes))
    rows = math.ceil(len(plan.axes) / columns)
    figure = Figure(figsize=(10, 3.2 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, panel in zip(plan.axes, panels.flat, strict=False):
        place = place_of(panel, axis, vertical=False)
        for result in results:
            x = place(result.settings[axis.leaf])
            if result.value is None:
                edge = panel.get_xaxis_transform()
                panel.plot(x, 0.03, "x", color=_BROKEN, transform=edge, clip_on=False)
            else:
                _dots(plan, panel, x, result)
        if winner and winner.value is not None:
            _mark(plan, panel, place(winner.settings[axis.leaf]), winner)
        panel.set_xlabel(axis.leaf)
        panel.grid(axis="y")
    for panel in panels.flat[len(plan.axes) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        _scale(plan, panel, plan.sweep.metric)
    return figure


def _mark(plan: Plan, panel: Axes, x: float, winner: Result) -> None:
    """Rings the best trial, and says its value on the side where it is not."""
    assert winner.value is not None
    at = height(plan.metric.percent, winner.value)
    panel.plot(x, at, "o", ms=11, mfc="none", mec=_BEST, mew=1.5, zorder=1)
    panel.axhline(at, color=_BEST, lw=0.8, ls=(0, (4, 3)), zorder=0)
    on_the_left = panel.transAxes.inverted().transform(panel.transData.transform((x, at)))[0] < 0.5
    said = f"trial {winner.number}: {plan.metric.show(winner.value)}"
    x, side = (0.99, "right") if on_the_left else (0.01, "left")
    along = panel.get_yaxis_transform()
    panel.text(x, at, said, color=_BEST, fontsize=8, ha=side, va="bottom", transform=along)


def _dots(plan: Plan, panel: Axes, x: float, result: Result) -> None:
    colour = _INK if result.state == COMPLETE else _PALE
    seeds = [height(plan.metric.percent, one["value"]) for one in result.seeds]
    if len(seeds) > 1:
        panel.plot([x] * len(seeds), seeds, "_", ms=18, mew=1, color=colour, zorder=3)  # wider than the ring
    assert result.value is not None
    at = height(plan.metric.percent, result.value)
    panel.plot(x, at, "o", ms=6, color=colour, zorder=2)
    panel.annotate(
        f"{result.number}", (x, at), (10, -3), textcoords="offset points", fontsize=6.5, color=_INK
    )


def _parallel(plan: Plan, results: Sequence[Result], winner: Result | None) -> Figure:
    metric, figure = plan.sweep.metric, Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, len(plan.axes) + 1)
    places = [place_of(panel, axis, vertical=True) for axis, panel in zip(plan.axes, panels, strict=False)]
    ranked = _ranked(plan, results)
    panels[-1].set_ylim(*limits([height(plan.metric.percent, one.value or 0) for one, _ in ranked]))
    _scale(plan, panels[-1], "")
    names = [*(axis.leaf for axis in plan.axes), f"{metric}, %" if plan.metric.percent else metric]
    for panel, name in zip(panels, names, strict=True):
        panel.set(xlim=(-0.5, 0.5), xlabel=name)
        panel.xaxis.set_major_locator(NullLocator())
        panel.spines["left"].set_position("center")
        panel.spines["bottom"].set_visible(False)
        panel.patch.set_visible(False)
        for label in panel.get_yticklabels():
            label.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.8})
    figure.canvas.draw()  # places the panels, which the lines between them need to know
    figure.set_layout_engine("none")
    for one, colour in ranked:
        heights = [place(one.settings[axis.leaf]) for place, axis in zip(places, plan.axes, strict=True)]
        heights.append(height(plan.metric.percent, one.value or 0))
        points = [
            figure.transFigure.inverted().transform(panel.transData.transform((0, y)))
            for panel, y in zip(panels, heights, strict=True)
        ]
        best = winner is not None and one.number == winner.number
        line = Line2D(*zip(*points, strict=True), transform=figure.transFigure)
        line.set(color=_BEST if best else colour, linewidth=2.8 if best else 1.2, zorder=-1 if best else -2)
        line.set_linestyle("-" if one.state == COMPLETE else (0, (4, 2)))
        figure.add_artist(line)
    return figure


def _curves(plan: Plan, results: Sequence[Result], winner: Result | None) -> Figure:
    metric, figure = plan.sweep.metric, Figure(figsize=(10, 4.2), layout="constrained")
    panel, heights = figure.subplots(), []
    colours = {one.number: colour for one, colour in _ranked(plan, results)}
    for result in results:
        best = winner is not None and result.number == winner.number
        colour = _BEST if best else colours.get(result.number, _BROKEN)
        for one in result.seeds:
            rows = [row for row in one["rows"] if row[metric] is not None]
            at = [height(plan.metric.percent, row[metric]) for row in rows]
            heights += at
            style: dict[str, Any] = {"color": colour, "zorder": 3 if best else 2, "lw": 2 if best else 1.1}
            panel.plot([row["epoch"] for row in rows], at, "-o", ms=3, **style)
            if rows:
                end = rows[-1]["epoch"], at[-1]
                panel.annotate(
                    f"{result.number}", end, (4, -3), textcoords="offset points", fontsize=7, color=colour
                )
    last = max(
        (one["rows"][-1]["epoch"] for result in results for one in result.seeds if one["rows"]), default=1
    )
    panel.set(xlabel="epoch", ylim=limits(heights), xlim=(0.5, last + 0.5))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(axis="y")
    _scale(plan, panel, metric)
    return figure


def _confirmation(scores: Scores) -> Figure:
    figure = Figure(figsize=(10, 0.9 + 0.6 * len(scores)), layout="constrained")
    panel = figure.subplots()
    for y, (name, each) in enumerate(reversed(list(scores.items()))):
        values = np.array([100 * one["test/accuracy"] for one in each])
        colour = _BEST if name == "winner" else _INK
        panel.plot(values, np.full(len(values), y), "o", ms=5, color=colour, alpha=0.5, mew=0)
        if len(values) > 1:
            sd = values.std(ddof=1)
            panel.errorbar(values.mean(), y - 0.25, xerr=sd, fmt="|", ms=12, capsize=4, color=colour)
            said = f"{values.mean():.3f} ± {sd:.3f}, n = {len(values)}"
        else:
            said = f"{values.mean():.2f}, n = 1"
        panel.text(1.01, y, said, color=colour, va="center", transform=panel.get_yaxis_transform())
    names = {"winner": "trained" if len(scores) == 1 else "winner", "base": "as configured"}
    panel.set_yticks(range(len(scores)), [names[name] for name in reversed(list(scores))])
    panel.set(ylim=(-0.6, len(scores) - 0.5), xlabel="test accuracy, %")
    panel.grid(axis="x")
    return figure


def _ranked(plan: Plan, results: Sequence[Result]) -> list[tuple[Result, Any]]:
    """The finite trials from the worst to the best, each with its colour."""
    ranked = [one for one in results if one.value is not None]
    ranked.sort(key=lambda one: (one.state == COMPLETE, plan.metric.better(one.value or 0)))
    return [(one, _COLOURS(0.9 * i / max(len(ranked) - 1, 1))) for i, one in enumerate(ranked)]
