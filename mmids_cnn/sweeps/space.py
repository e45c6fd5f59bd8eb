"""What a swept setting may be: `choice(1e-3, 3e-3)` and its like, parsed from text, enumerated, drawn from.

choice(a, b, c)          one of some values; of tuples too, `choice((8, 8), (16, 32, 32))`
uniform(low, high)       any number between the two
log_uniform(low, high)   any number between the two, its logarithm evenly spread
integers(low, high)      any integer from low to high, both included
"""

import ast
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_HUGE = 1e300  # far from where arithmetic on the ends of a range could overflow
MANY = 10_000  # values of a domain, or settings of a grid: more can hardly be meant


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, in the order given."""

    options: tuple[Any, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """All values."""
        return self.options

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values whose validity implies that of all."""
        return self.options

    def draw(self, generator: np.random.Generator) -> Any:
        """A random value."""
        return self.options[int(generator.integers(len(self.options)))]


@dataclasses.dataclass(frozen=True)
class Integers:
    """An integer from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...]:
        """All values, ascending."""
        return tuple(range(self.low, self.high + 1))

    @property
    def probes(self) -> tuple[int, ...]:
        """Both ends, and the second value: rules are intervals, and oddness for kernel sizes."""
        return (self.low, self.low + 1, self.high)

    def draw(self, generator: np.random.Generator) -> int:
        """A random value."""
        return int(generator.integers(self.low, self.high, endpoint=True))


@dataclasses.dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; `log` spreads its logarithm evenly."""

    low: float
    high: float
    log: bool

    @property
    def values(self) -> None:
        """None: they cannot be counted."""

    @property
    def probes(self) -> tuple[float, float]:
        """Both ends: the rules of numbers are intervals."""
        return (self.low, self.high)

    def draw(self, generator: np.random.Generator) -> float:
        """A random value."""
        if not self.log:
            return float(generator.uniform(self.low, self.high))
        exponent = generator.uniform(math.log(self.low), math.log(self.high))
        return min(max(math.exp(exponent), self.low), self.high)  # rounding may leave the range by a bit


Domain = Choice | Integers | Range

_FORMS = "choice(a, b, ...), uniform(low, high), log_uniform(low, high) or integers(low, high)"


def parse(text: str) -> Domain:
    """The domain that a text describes. Only literals are evaluated, nothing is run.

    Raises:
      ValueError: it describes none; the message is 'expected …, got …'.

    >>> parse("log_uniform(1e-4, 1e-1)")
    Range(low=0.0001, high=0.1, log=True)
    >>> parse("choice((8, 8), (16, 32, 32))").values
    ((8, 8), (16, 32, 32))
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords
        name = call.func.id
        arguments = [ast.literal_eval(argument) for argument in call.args]
    except (SyntaxError, ValueError, AssertionError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"expected {_FORMS}, got {text!r}") from None
    if name == "choice":
        return _choice(arguments, text)
    if name not in ("uniform", "log_uniform", "integers"):
        raise ValueError(f"expected {_FORMS}, got {text!r}")
    kinds = (int,) if name == "integers" else (int, float)
    if len(arguments) != 2 or any(type(x) not in kinds or not abs(x) < _HUGE for x in arguments):
        what = "integers" if name == "integers" else "finite numbers"
        raise ValueError(f"expected two {what}, low and high, got {text!r}")
    low, high = arguments
    if not low < high:
        raise ValueError(f"expected low < high, got {text!r}")
    if name == "integers":
        if high - low >= MANY:
            raise ValueError(f"expected at most {MANY:,} integers, got {text!r}")
        return Integers(low, high)
    if name == "log_uniform" and low <= 0:
        raise ValueError(f"expected a low end > 0, whose logarithm exists, got {text!r}")
    return Range(float(low), float(high), name == "log_uniform")


def _choice(options: Sequence[Any], text: str) -> Choice:
    if not options:
        raise ValueError(f"expected at least one value to choose, got {text!r}")
    if any(a == b for i, a in enumerate(options) for b in options[:i]):
        raise ValueError(f"expected values that differ from one another, got {text!r}")
    return Choice(tuple(options))


def grid_size(domains: Sequence[Domain]) -> int | None:
    """How many settings a grid has; None if a domain cannot be counted."""
    sizes = [None if domain.values is None else len(domain.values) for domain in domains]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def grid_point(domains: Sequence[Domain], number: int) -> tuple[Any, ...]:
    """A setting of the grid, the last domain changing fastest.

    >>> [grid_point([parse("choice('a', 'b')"), parse("integers(1, 2)")], n) for n in range(4)]
    [('a', 1), ('a', 2), ('b', 1), ('b', 2)]
    """
    point: list[Any] = []
    for domain in reversed(domains):
        assert domain.values is not None
        number, index = divmod(number, len(domain.values))
        point.append(domain.values[index])
    return tuple(reversed(point))


def random_point(domains: Sequence[Domain], seed: int, number: int) -> tuple[Any, ...]:
    """A random setting. It depends on the seed and its number alone, not on how many are drawn."""
    generator = np.random.default_rng([seed, number])
    return tuple(domain.draw(generator) for domain in domains)
