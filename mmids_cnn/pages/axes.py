"""The axis of a metric: a share by the logarithm of its error, what is no share by its own."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

_LEAST_ERROR = 2e-5  # of a share: a share of 1 is drawn there on the logarithmic axis
_MOST_MARKS = 16
_MARKS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9999)


def height(share: bool, value: float) -> float:
    """Where a value lies: a share, such as an accuracy, by the logarithm of its error; another by its own."""
    if share:
        return -math.log10(max(1 - value, _LEAST_ERROR))
    return math.log10(max(value, 1e-9))


def value_axis(panel: Axes, label: str, share: bool) -> None:
    """Marks a vertical axis, whose range is set, with the values of a metric; no label if that is ''."""
    if share:
        marks = _shares(*(1 - 10**-at for at in panel.get_ylim()))
        panel.yaxis.set_major_locator(FixedLocator([height(share, value) for value in marks]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * (1 - 10**-at):.4g}"))
    else:
        panel.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{10**at:.3g}"))
    if label:
        panel.set_ylabel(f"{label}, %" if share else label)


def limits(heights: Sequence[float]) -> tuple[float, float]:
    """The range of an axis that shows all heights with some room around them."""
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    margin = 0.07 * (high - low) or 0.1
    return low - margin, high + margin


def _shares(low: float, high: float) -> list[float]:
    """Where to put marks: evenly, unless the error spans much; then at round shares that do not crowd."""
    if (1 - low) / max(1 - high, _LEAST_ERROR) > 5:
        apart = (height(True, high) - height(True, low)) / _MOST_MARKS
        kept: list[float] = []
        for mark in _MARKS:
            if not kept or height(True, mark) - height(True, kept[-1]) >= apart:
                kept.append(mark)
        return kept
    return [float(value) for value in MaxNLocator(6).tick_values(low, high) if value < 1]
