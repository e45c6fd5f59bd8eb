"""The axes of settings: each on its own scale."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmids_cnn.sweeps import space
from mmids_cnn.sweeps.plan import Axis


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
