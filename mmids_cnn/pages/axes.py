"""The axes of a sweep's pictures: a setting on its own scale, an accuracy by the logarithm of its error."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmids_cnn.sweeps import space
from mmids_cnn.sweeps.plan import Axis

_LEAST_ERROR = 2e-5  # of a share: an accuracy of 1 is drawn there on the logarithmic axis
_ACCURACIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9999)


def place_of(panel: Axes, axis: Axis, *, vertical: bool) -> Callable[[Any], float]:
    """Sets an axis of a panel up for a setting; returns where a value of it lies there."""
    along, name = (panel.yaxis, "y") if vertical else (panel.xaxis, "x")
    domain = axis.domain
    if isinstance(domain, space.Choice):
        order = _ordered(domain.options)
        labels, places = [str(value) for value in order], _places(order)
        along.set_major_locator(FixedLocator(places))
        along.set_major_formatter(FuncFormatter(lambda _, index: labels[index] if index is not None else ""))
        if not vertical and sum(map(len, labels)) > 40:
            panel.tick_params(axis="x", rotation=30)
        panel.set(**{f"{name}lim": (places[0] - 0.5, places[-1] + 0.5)})
        return lambda value: places[order.index(value)]
    if isinstance(domain, space.Range) and domain.log:
        panel.set(**{f"{name}scale": "log"})
        panel.set(**{f"{name}lim": (domain.low / 1.1, domain.high * 1.1)})
        few = domain.high / domain.low < 1000
        along.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        along.set_major_formatter(FuncFormatter(lambda at, _: f"{at:.3g}"))
        along.set_minor_formatter(NullFormatter())
        return float
    if isinstance(domain, space.Integers):
        along.set_major_locator(MaxNLocator(integer=True))
    margin = 0.04 * (domain.high - domain.low)
    panel.set(**{f"{name}lim": (domain.low - margin, domain.high + margin)})
    return float


def height(metric: str, value: float) -> float:
    """Where a value of a metric lies: an accuracy by the logarithm of its error, a loss by its own."""
    if metric.endswith("accuracy"):
        return -math.log10(max(1 - value, _LEAST_ERROR))
    return math.log10(max(value, 1e-9))


def value_axis(metric: str, panel: Axes, *, label: bool = True) -> None:
    """Marks a vertical axis, whose range is set, with the values of a metric."""
    of_accuracy = metric.endswith("accuracy")
    if of_accuracy:
        marks = _accuracies(*(1 - 10**-at for at in panel.get_ylim()))
        panel.yaxis.set_major_locator(FixedLocator([height(metric, value) for value in marks]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * (1 - 10**-at):.4g}"))
    else:
        panel.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{10**at:.3g}"))
    if label:
        panel.set_ylabel(f"{metric}, %" if of_accuracy else metric)


def limits(heights: Sequence[float]) -> tuple[float, float]:
    """The range of an axis that shows all heights with some room around them."""
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    margin = 0.07 * (high - low) or 0.1
    return low - margin, high + margin


def _accuracies(low: float, high: float) -> list[float]:
    """Where to put marks: evenly, unless the error spans so much that they would crowd together."""
    if (1 - low) / max(1 - high, _LEAST_ERROR) > 5:
        return list(_ACCURACIES)
    return [float(value) for value in MaxNLocator(6).tick_values(low, high) if value < 1]


def _places(order: Sequence[Any]) -> list[float]:
    """Where values that are chosen from lie: numbers by their logarithm if they spread, all else evenly."""
    even = [float(index) for index in range(len(order))]
    if len(order) < 3 or any(type(value) not in (int, float) or value <= 0 for value in order):
        return even
    if order[-1] / order[0] < 5:
        return even
    unit = math.log(order[-1] / order[0]) / (len(order) - 1)
    places = [math.log(value / order[0]) / unit for value in order]
    # Marks closer than that would have their labels on top of one another.
    return places if min(b - a for a, b in itertools.pairwise(places)) > 0.4 else even


def _ordered(options: Sequence[Any]) -> list[Any]:
    numbers = all(type(value) in (int, float) for value in options)
    return sorted(options) if numbers else list(options)
