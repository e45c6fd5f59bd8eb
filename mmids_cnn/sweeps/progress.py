"""What a sweep shows while it works: a live table of its trials over a bar; plain lines off a terminal."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics, train
from mmids_cnn.console.terminal import PLAIN_SECONDS, Terminal, clock, counted
from mmids_cnn.devices import device
from mmids_cnn.populations import population
from mmids_cnn.populations.executor import Update
from mmids_cnn.populations.ledger import Member, trial_name
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.trials import Result, Trial

_AROUND = 8  # lines of the terminal that are no trial's: the table's frame, the bar, the prompt
_FRAME, _LEAST = 13, 20  # columns of the terminal around the cells of a row, and for settings at least


def introduce(plan: Plan, dataset: data.Dataset, workdir: Path, terminal: Terminal) -> None:
    """Shows what is about to be tried, on what.

    Raises:
      ConfigError: a network does not fit the images, or the memory.
    """
    terminal.close()
    train.make_network(plan.experiment, dataset)
    if plan.sweep.executor == "local":
        terminal.note(device.describe(device.found()))
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    terminal.note(f"data: {dataset.name}, {sizes}, fingerprint {dataset.fingerprint[:16]}")
    # Trials are trained together where no axis changes a shape.
    same_shapes = all(axis.leaf in config_lib.TRACED for axis in plan.axes)
    members = min(plan.sweep.population, plan.sweep.seeds * (plan.trials if same_shapes else 1))
    notes: dict[str, None] = {}  # each once, in their order
    needed = 0
    for settings in plan.borders():
        member = plan.member(settings, plan.experiment.seed)
        population.shared(member, dataset)
        if plan.sweep.executor == "local":
            needed = max(needed, train.require_memory(member, dataset, members))
        notes |= dict.fromkeys(train.notes(member, dataset))
    if plan.sweep.search == "tpe" and plan.sweep.batch >= plan.trials:
        few = f"for {plan.trials} trials: tpe suggests all of them before it has seen a result"
        notes[f"config.sweep.batch is {plan.sweep.batch}, {few}"] = None
    if needed:
        terminal.note(device.describe_memory(needed))
    rows = [(axis.leaf, axis.text) for axis in plan.axes]
    terminal.table("", ("setting", "space"), rows or [("none", "the experiment as it is")])
    sweep = plan.sweep
    rungs = f", one in {sweep.halving} going on after epochs {sweep.rungs}" if sweep.halving else ""
    terminal.note(
        f"search: {sweep.search}, {counted(plan.trials, 'trial')} of {counted(sweep.seeds, 'seed')}, "
        f"{sweep.population} at once{rungs}; {counted(sweep.confirm_seeds, 'seed')} to confirm"
    )
    terminal.note(f"workdir: {workdir}")
    for sentence in notes:
        terminal.say(f"note: {sentence}")


class Board:
    """The trials of a sweep, and how much of the work is done.

    Args:
      terminal: where to show it.
      plan: the sweep.
      total: the work, in images that members see; an estimate, where epochs are swept.
      images: that a member sees in an epoch.
    """

    def __init__(self, terminal: Terminal, plan: Plan, total: int, images: int) -> None:
        self._terminal, self._column, self._metric = terminal, plan.sweep.metric, plan.metric
        self._total, self._images = total, images
        self._settings: dict[int, str] = {}
        self._states: dict[int, str] = {}
        self._values: dict[int, float] = {}
        self._epochs: dict[Member, float] = {}  # of each member
        self._seen: dict[str, int] = {}  # images by job, of this process and those that work for it
        self._started, self._last_plain = time.monotonic(), time.monotonic()
        self._live: Live | None = None
        self.doing = ""  # said before the epoch of those at work

    def trial(self, trial: Trial, result: Result | None) -> None:
        """A trial is waiting for its training, or has a result."""
        number, state = trial.number, result.state if result else "waiting"
        self._settings[number] = describe(trial.settings)
        before = self._states.get(number)
        self._states[number] = state
        if result is not None and result.value is not None:
            self._values[number] = result.value
        if self._terminal.mode == "plain" and state != before and result is not None:
            self._terminal.note(f"trial {number}: {self._settings[number]}: {self._value(number)} {state}")
        self._draw()

    def known(self, member: Member, epoch: float) -> None:
        """A member has been trained up to an epoch."""
        self._epochs[member] = epoch

    def update(self, job: str, members: Sequence[Member], update: Update) -> None:
        """The members of a job are so far."""
        self._seen[job] = update.images * len(members)
        self._epochs |= dict.fromkeys(members, update.epoch)
        for number in dict.fromkeys(member.trial for member in members):
            self._states[number] = f"{self.doing}epoch {update.epoch:.2f}"
            values = [
                row[self._column]
                for member, row in zip(members, update.rows, strict=False)
                if row and member.trial == number and self._column in row
            ]
            if values:
                self._values[number] = sum(values) / len(values)
        self._draw()

    def close(self) -> None:
        """Takes the live table away."""
        if self._live:
            self._live.stop()
        self._live = None
        self._terminal.close()

    def _draw(self) -> None:
        done, left = min(sum(self._epochs.values()) * self._images, self._total), None
        elapsed = time.monotonic() - self._started
        rate = sum(self._seen.values()) / elapsed if elapsed > 1 else 0.0
        if rate:
            left = (self._total - done) / rate
        facts = f"{100 * done / max(self._total, 1):.0f} %"
        if left is not None:
            facts += f"  {rate:,.0f} images/s  {clock(left)} left"
        if self._terminal.mode == "bar":
            if self._live is None:
                self._live = Live(console=self._terminal.console, transient=True, refresh_per_second=4)
                self._live.start()
            room = self._terminal.console.width - len(facts) - 2
            bar = ProgressBar(total=self._total, completed=done, width=min(40, max(room, 1)))
            self._live.update(Group(self._table(), bar, Text(f" {facts}")))
        elif self._terminal.mode == "plain" and time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self._terminal.note(f"sweep  {facts}")

    def _table(self) -> Table | Text:
        """The best trials and those at work; where a table has no room for their settings, a line each."""
        shown = max(self._terminal.console.height - _AROUND, 3)
        rows = [
            (trial_name(number), self._value(number), self._states[number], self._settings.get(number, ""))
            for number in self._order()[:shown]
        ]
        if len(self._states) > shown:
            rows.append(("...", "", "", f"and {len(self._states) - shown} more"))
        heads = ("trial", self._column, "state")
        taken = sum(max(map(len, cells)) for cells in zip(heads, *(row[:3] for row in rows), strict=True))
        room = self._terminal.console.width - taken - _FRAME
        if room < _LEAST:
            lines = ("  ".join(filter(None, row)) for row in rows)
            return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        table = Table(*heads, Column("settings", no_wrap=True, overflow="ellipsis", max_width=room))
        for row in rows:
            table.add_row(*row)
        return table

    def _order(self) -> list[int]:
        better = self._metric.better

        def key(number: int) -> tuple[bool, float, int]:
            at_work = "epoch" in self._states[number]
            value = -better(self._values[number]) if number in self._values else math.inf
            return (not at_work, value, number)

        return sorted(self._states, key=key)

    def _value(self, number: int) -> str:
        return show(self._metric, self._values.get(number))


def show(metric: metrics.Metric, value: float | None) -> str:
    """A value of a metric for people, nothing where there is none."""
    return "" if value is None else metric.show(value)


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in a line: the last part of each name, numbers to four digits, those below 1 of 1 - x."""
    cells = [f"{leaf.rpartition('.')[2]}={_short(value)}" for leaf, value in settings.items()]
    return "  ".join(cells) or "as configured"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = 4 - (math.ceil(math.log10(1 - value)) if 0.9 < value < 1 else 0)
    return f"{value:.{digits}g}"
