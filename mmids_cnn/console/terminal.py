"""What a run shows: a bar with rate and time left on a terminal, plain lines elsewhere; the same facts."""

import contextlib
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from mmids_cnn.errors import FaultError

MODES = ("auto", "bar", "plain", "none")
PLAIN_SECONDS = 10.0  # between plain lines of progress
_NARROW = 75  # columns that a bar needs beside a rate


def apart() -> None:
    """From now on what C++ libraries print on standard output goes nowhere; what Python prints is shown."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Console(Console):
    """Goes on in silence where nobody reads (`| head`) or a disk is full: a run is worth more than that."""

    failed: OSError | None = None

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()  # calls `on_broken_pipe` where whoever reads has gone
        except OSError as error:
            self.failed = error
            with contextlib.suppress(OSError, AttributeError):  # it is closed, or was from the start
                sys.stderr.write(f"note: standard output cannot be written: {error.strerror}\n")
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """Shows progress, tables and results on standard output; mode 'none' leaves only results."""

    def __init__(self, mode: str = "auto") -> None:
        self.console = _Console(file=sys.stdout, highlight=False, emoji=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = 200  # a file or a pipe has no width to keep to
        if mode in ("auto", "bar"):  # a bar needs a terminal that can take it away
            can = self.console.is_terminal and not self.console.is_dumb_terminal
            mode = "bar" if can else "plain"
        self._mode = mode
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last_plain = time.monotonic()
        self._columns: list[str] = []
        self._started: dict[str, tuple[float, int]] = {}

    @property
    def mode(self) -> str:
        """How progress is shown: 'bar', 'plain' or 'none'."""
        return self._mode

    def say(self, text: str) -> None:
        """A line that belongs to the result."""
        self.console.print(text, markup=False)

    def require_written(self) -> None:
        """Raises `FaultError` where a result that is nowhere else was not shown; readers may go away."""
        if self.console.failed:
            raise FaultError("standard output: expected that it can be written; send it to another place")

    def note(self, text: str) -> None:
        """A line that mode 'none' leaves out."""
        if self._mode != "none":
            self.console.print(text, markup=False)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], texts: int = 1
    ) -> None:
        """A table; columns after the first, or after so many of texts, are aligned to the right."""
        if self._mode == "none":
            return
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index < texts else "right")
        for row in rows:
            table.add_row(*map(str, row))
        needs = self.console.measure(table, options=self.console.options.update(max_width=10**4)).minimum
        if self.console.is_terminal and needs > self.console.width:
            for row in rows:
                self._pairs(columns, map(str, row))
        else:
            self.console.print(table)

    def row(
        self,
        row: Mapping[str, float | int | None],
        show: Callable[[str, float | None], str],
    ) -> None:
        """A line of the table of evaluations, under a heading whenever the columns change.

        Args:
          row: values by name; counts are left out.
          show: a metric as text, by its name and value.
        """
        shown = {name: _cell(name, row[name], show) for name in row if not name.endswith("/count")}
        widths = [max(len(name), 8) for name in shown]
        if self.console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > self.console.width:
            self._pairs(shown, shown.values())
            return
        if list(shown) != self._columns:
            self._columns = list(shown)
            self.note("  ".join(map(str.rjust, shown, widths)))
        self.note("  ".join(map(str.rjust, shown.values(), widths)))

    def _pairs(self, names: Iterable[str], cells: Iterable[str]) -> None:
        """A row of a table that is too wide, as names with their cells, each pair kept in one line."""
        pairs = [f"{name} {cell}".replace(" ", "\0") for name, cell in zip(names, cells, strict=True)]
        lines = textwrap.fill(
            "  ".join(pairs), self.console.width, subsequent_indent="  ", break_long_words=False
        )
        self.note(lines.replace("\0", " "))

    def progress(self, what: str, done: int, total: int, rate: float, unit: str) -> None:
        """Where long work is: what is being done, how much of it, how fast in `unit` a second.

        Args:
          what: the work; a new text starts a new bar.
          done: how much is done, in units.
          total: how much there is; 0 if that is not known.
          rate: units a second; 0 while not known.
          unit: the name of a unit, in the plural.
        """
        if self._mode == "none":
            return
        left = (total - done) / rate if rate > 0 and total else None
        speed = f"{rate:,.0f} {unit}/s" if rate > 0 else ""
        remaining = f"{clock(left)} left" if left is not None else ""
        if self._mode == "bar":
            narrow = self.console.width < _NARROW
            self._draw(what, done, total, remaining if narrow else f"{speed}  {remaining}")
        elif done == total or time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            part = f"{done:,}/{total:,} {unit}" if total else ""
            self.note("  ".join(text for text in (what, part, speed, remaining) if text))

    def report(self, what: str, done: int, total: int) -> None:
        """Progress of preparing data, in examples; without a total it is a message."""
        if not total:
            self.say(what)
            return
        if what not in self._started:
            self._last_plain = -math.inf  # work that begins is shown at once
        now = time.perf_counter()
        started, before = self._started.setdefault(what, (now, done))  # work began before the first report
        self.progress(
            what, done, total, (done - before) / (now - started) if done > before else 0, "examples"
        )

    def close(self) -> None:
        """Takes the bar away."""
        if self._progress:
            self._progress.stop()
        self._progress = None

    def _draw(self, what: str, done: int, total: int, facts: str) -> None:
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(None, table_column=Column(max_width=30)),  # narrower where there is less room
                TextColumn("{task.percentage:>3.0f} %  {task.fields[facts]}"),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(what, facts="")
        self._progress.update(self._task, description=what, completed=done, total=total or None, facts=facts)


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, 2:05, or hours too."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, unit: str) -> str:
    """A number of things in words: '1 seed', '8 seeds', '2 processes'."""
    return f"{number:,} {unit}{'' if number == 1 else 'es' if unit.endswith('s') else 's'}"


def _cell(name: str, value: float | int | None, show: Callable[[str, float | None], str]) -> str:
    if "/" in name:
        return show(name, value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.4g}"
