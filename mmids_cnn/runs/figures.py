"""The pictures of a run, as SVG in base 64: learning curves, calibration, confusion, filters, activations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from mmids_cnn.pages.axes import height, limits, value_axis
from mmids_cnn.pages.statistics import Bin, wilson
from mmids_cnn.pages.svg import STYLE, svg

# A split has a colour, a mark and a line of its own: one of them is enough to know it by.
_SPLITS: dict[str, dict[str, Any]] = {
    "train": {"color": "#7a8699", "marker": "o", "linestyle": "--"},
    "validation": {"color": "#c2701c", "marker": "s", "linestyle": ":"},
    "test": {"color": "#1f5fa8", "marker": "^", "linestyle": "-"},
}
_INK, _PALE, _IDEAL = "#1f5fa8", "#b9c8dc", "#8a93a0"
_WIDE = 5.2  # inches; two stand side by side
_LEAST = 1e-8  # what is nearer to 0 is drawn there on a logarithmic axis

Rows = Sequence[Mapping[str, Any]]


def loss(rows: Rows) -> str:
    """Loss by epoch, on a logarithmic axis."""

    def draw(panel: Axes) -> None:
        _lines(panel, rows, "loss", lambda value: max(value, _LEAST))
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        _plain(panel.yaxis)
        panel.set_ylabel("loss, nats")

    return _drawn(draw)


def error(rows: Rows) -> str:
    """Accuracy by epoch, at the height of the logarithm of the error, which is on the other side."""

    def draw(panel: Axes) -> None:
        panel.set_ylim(*limits(_lines(panel, rows, "accuracy", lambda value: height(True, value))))
        value_axis(panel, "accuracy", True)
        other = panel.twinx()
        other.set_ylim(*panel.get_ylim())
        other.yaxis.set_major_locator(panel.yaxis.get_major_locator())
        other.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * 10**-at:.3g}"))
        other.set_ylabel("error, %")

    return _drawn(draw)


def _plain(axis: Axis) -> None:
    """Plain numbers at the marks of a logarithmic axis, none between them."""
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,.0f}" if at >= 100 else f"{at:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def _lines(panel: Axes, rows: Rows, what: str, place: Callable[[float], float]) -> list[float]:
    heights = []
    for split, style in _SPLITS.items():
        there = [row for row in rows if row.get(f"{split}/{what}") is not None]
        if there:
            at = [place(row[f"{split}/{what}"]) for row in there]
            panel.plot([row["epoch"] for row in there], at, ms=4.5, lw=1.4, label=split, **style)
            heights += at
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("epoch")
    panel.grid(axis="y")
    if heights:
        panel.legend(frameon=False)
    return heights


def reliability(bins: Sequence[Bin]) -> str:
    """Accuracy by confidence in bins of equal width, and how many examples are in each."""

    def draw(figure: Figure) -> None:
        panel, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        panel.plot((0, 1), (0, 1), "--", color=_IDEAL, lw=1, label="calibrated")
        _shares(panel, [one for one in bins if one.size], lambda one: one.confidence, lambda share: share)
        panel.set(ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.grid(axis="y")
        panel.legend(frameon=False, loc="upper left")
        width = 1 / (len(bins) - 1)
        places = [min((i + 0.5) * width, 1) for i in range(len(bins))]
        below.bar(places, [one.size for one in bins], 0.85 * width, color=_PALE)
        below.set_yscale("log")
        below.set_ylim(0.7, 2 * max([one.size for one in bins], default=1))
        _plain(below.yaxis)
        below.set(xlabel="confidence", ylabel="images")

    return _figure(draw, 4.2)


def errors_promised(bins: Sequence[Bin]) -> str:
    """The share of errors by the share that confidence promises, both logarithmic, in bins of equal mass."""

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        some = [one for one in bins if one.size]

        def promised(one: Bin) -> float:
            return max(1 - one.confidence, _LEAST)

        ends = min(map(promised, some), default=_LEAST) / 2, 1.3
        panel.plot(ends, ends, "--", color=_IDEAL, lw=1, label="calibrated")
        _shares(panel, [one for one in some if one.right < one.size], promised, lambda share: 1 - share)
        none = [one for one in some if one.right == one.size]
        if none:
            tops = [1 - wilson(one.right, one.size)[0] for one in none]
            label = "no error: fewer than this"
            panel.plot([promised(one) for one in none], tops, "v", ms=6, color=_INK, mfc="none", label=label)
        least = 0.3 / max([one.size for one in some], default=1)
        panel.set(xscale="log", yscale="log", xlim=ends, ylim=(min(least, 0.5), 1.3))
        panel.set(xlabel="1 - confidence", ylabel="share of errors")
        for axis in (panel.xaxis, panel.yaxis):
            _plain(axis)
        panel.grid()
        panel.legend(frameon=False, loc="upper left")

    return _figure(draw, 4.2)


def _shares(panel: Axes, bins: Sequence[Bin], x: Callable[[Bin], float], y: Callable[[float], float]) -> None:
    """A dot a bin with the interval of its share."""
    for i, one in enumerate(bins):
        share = y(one.right / one.size)
        low, high = sorted(map(y, wilson(one.right, one.size)))
        spread = [[max(share - low, 0)], [max(high - share, 0)]]
        label = "images of a bin, 95 % interval" if i == 0 else None
        panel.errorbar([x(one)], [share], spread, fmt="o", ms=4.5, color=_INK, lw=1.2, label=label)


def confusion(counts: NDArray[Any]) -> str:
    """Counts by true and predicted class as a map, without those on the diagonal."""

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        wrong = np.ma.masked_where((counts == 0) | np.eye(len(counts), dtype=bool), counts)
        most = max(int(np.ma.filled(wrong, 0).max()), 1)
        image = panel.imshow(wrong, "YlOrRd", norm=PowerNorm(0.5, 0, most), interpolation="none")
        panel.plot((-0.5, len(counts) - 0.5), (-0.5, len(counts) - 0.5), color=_PALE, lw=0.6)
        panel.set(xlabel="said, number of the class", ylabel="true")
        figure.colorbar(image, shrink=0.7, label="images", ticks=MaxNLocator(5, integer=True))

    return _figure(draw, 4.4)


def filters(kernel: NDArray[Any]) -> str:
    """The filters of a convolution, `[height, width, in, out]`: three channels as colours, or a mean."""
    largest = float(np.abs(kernel).max()) or 1.0
    if kernel.shape[2] == 3:
        return _tiles(list(np.moveaxis(0.5 + kernel / (2 * largest), 3, 0)), None, "")
    means = kernel.mean(2)
    largest = float(np.abs(means).max()) or 1.0
    return _tiles(list(np.moveaxis(means, 2, 0)), Normalize(-largest, largest), "weight", "PuOr")


def activations(maps: NDArray[Any]) -> str:
    """The maps that a layer makes of an image, `[maps, height, width]`, on one scale."""
    low, high = float(maps.min()), float(maps.max())
    return _tiles(list(maps), Normalize(min(low, 0), max(high, low + 1e-6)), "activation", "viridis")


def _tiles(tiles: Sequence[NDArray[Any]], norm: Normalize | None, unit: str, colours: str = "") -> str:
    """Small pictures side by side in one, with a scale."""
    columns = 8 if len(tiles) > 4 else 4
    rows = math.ceil(len(tiles) / columns)
    (tall, wide), gap = tiles[0].shape[:2], 1
    shape = (rows * (tall + gap) - gap, columns * (wide + gap) - gap, *tiles[0].shape[2:])
    whole = np.full(shape, 1.0 if norm is None else np.nan)
    for i, tile in enumerate(tiles):
        down, right = (i // columns) * (tall + gap), (i % columns) * (wide + gap)
        whole[down : down + tall, right : right + wide] = tile

    height, below = _WIDE * shape[0] / shape[1], 0.0 if norm is None else 0.6

    def draw(figure: Figure) -> None:
        total = height + below
        panel = figure.add_axes((0.01, below / total, 0.98, 0.98 * height / total))
        image = panel.imshow(whole, colours or None, norm=norm, interpolation="none")
        panel.set_axis_off()
        if norm is not None:
            scale = figure.add_axes((0.3, 0.4 / total, 0.4, 0.1 / total))
            figure.colorbar(image, scale, label=unit, orientation="horizontal")

    return _figure(draw, height + below)


def _drawn(draw: Callable[[Axes], None]) -> str:
    return _figure(lambda figure: draw(figure.subplots()), 3.4)


def _figure(draw: Callable[[Figure], None], high: float) -> str:
    """A picture, so many inches high; its margins are fixed, as to find them takes twice as long."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDE, high))
        sides = {
            "left": 0.75 / _WIDE,
            "right": 1 - 0.55 / _WIDE,
            "bottom": 0.45 / high,
            "top": 1 - 0.12 / high,
        }
        if sides["bottom"] < sides["top"]:  # a lower one has no axes
            figure.subplots_adjust(**sides, hspace=0.12)
        draw(figure)
        return svg(figure)
