"""What a sweep leaves behind: numbers by hand, and a page that needs nothing but itself."""

import base64
import contextlib
import csv
import html.parser
import io
import math
import re
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from mmids_cnn.console import experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.pages import axes
from mmids_cnn.pages import statistics as pages_statistics
from mmids_cnn.populations import executor
from mmids_cnn.populations.ledger import Member
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps import progress, results, scales, space
from mmids_cnn.sweeps.trials import COMPLETE, NONFINITE, PRUNED, Result, Trial
from tests.support import sweeping

FOLDER = Path("nowhere")


@pytest.fixture
def plan() -> plan_lib.Plan:
    """Every kind of axis."""
    return sweeping.make(
        FOLDER,
        sweep__search="random",
        sweep__trials=4,
        sweep__space__optimizer__learning_rate="log_uniform(1e-4, 1e-1)",
        sweep__space__optimizer__b1="uniform(0.8, 0.95)",
        sweep__space__batch_size="integers(8, 64)",
        sweep__space__model__channels="choice((4,), (4, 8))",
    )


def made_up(plan: plan_lib.Plan) -> list[Result]:
    """A complete trial, one stopped at a rung, one that diverged, and a better one."""
    kinds = [
        (COMPLETE, (0.9, 0.94), 2),
        (PRUNED, (0.5, 0.52), 1),
        (NONFINITE, (None, None), 0),
        (COMPLETE, (0.97, 0.99), 2),
    ]
    found = []
    for number, (state, values, epochs) in enumerate(kinds):
        seeds = [
            {
                "seed": seed,
                "value": value,
                "diverged": None if value else 3,
                "fingerprint": "",
                "rows": [
                    {"step": 8 * e, "epoch": float(e), "validation/accuracy": (value or 0) * e / epochs}
                    for e in range(1, epochs + 1)
                ],
            }
            for seed, value in enumerate(values)
        ]
        value = statistics.fmean(v for v in values if v) if values[0] else None
        found.append(Result(number, plan.point(number), state, value, seeds))
    return found


def scores(*values: float | None) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "diverged": None if value else 5, "fingerprint": ""}
        | ({"test/accuracy": value, "test/loss": 1 - value, "test/count": 200} if value else {})
        for seed, value in enumerate(values, 2)
    ]


def test_spread_by_hand() -> None:
    values = [0.98, 0.99, 1.0, 0.99, 0.99]
    found = pages_statistics.spread(values)
    assert found["mean"] == pytest.approx(0.99)
    assert found["sd"] == pytest.approx(math.sqrt((0.01**2 + 0.01**2) / 4))
    assert found["n"] == 5
    # Student's t with 4 degrees of freedom: 2.776 times the deviation of the mean, sqrt(2e-4 / 4 / 5).
    assert found["interval"] == pytest.approx([0.99 - 0.00878, 0.99 + 0.00878], abs=1e-5)
    assert pages_statistics.spread([0.5] * 5)["interval"] is None
    assert pages_statistics.spread(values) == found
    assert pages_statistics.spread(values[:4])["interval"] is None
    assert pages_statistics.spread([0.5]) == {"mean": 0.5, "sd": None, "n": 1, "interval": None}


def test_files(plan: plan_lib.Plan, tmp_path: Path) -> None:
    trials = made_up(plan)
    confirmed = {"winner": scores(0.98, 0.96), "base": scores(0.9, None)}
    best = results.write(plan, tmp_path, trials, trials[3], confirmed)
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == [COMPLETE, PRUNED, NONFINITE, COMPLETE]
    assert [row["epochs"] for row in rows] == ["2", "1", "0", "2"]
    values = [row["validation/accuracy"] and float(row["validation/accuracy"]) for row in rows]
    assert values == [pytest.approx(0.92), pytest.approx(0.51), "", pytest.approx(0.98)]
    assert [row["validation/accuracy, seed 1"] for row in rows] == ["0.94", "0.52", "", "0.99"]
    assert [float(row["optimizer.learning_rate"]) for row in rows] == [
        one.settings["optimizer.learning_rate"] for one in trials
    ]
    assert best["trial"] == 3
    assert best["confirmed"]["base"]["diverged"] == 1
    assert best["confirmed"]["base"]["test/accuracy"] == {"mean": 0.9, "sd": None, "n": 1, "interval": None}
    first, second, third, *_ = best["summary"].splitlines()
    assert first.startswith("best: trial 3, ")
    assert "validation/accuracy 98.00 ± 1.41 % (n = 2)" in first
    assert "97.00 ± 1.41 % (n = 2" in second
    assert third.endswith("90.00 % (n = 1) of 200 test images right, 1 more diverged")


class Page(html.parser.HTMLParser):
    """Sources and references of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_needs_nothing_but_itself(plan: plan_lib.Plan, tmp_path: Path) -> None:
    trials = made_up(plan)
    results.write(
        plan, tmp_path, trials, trials[3], {"winner": scores(0.98, 0.96), "base": scores(0.9, 0.91)}
    )
    content = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(content)
    pictures = [one for one in page.sources if not one.startswith("#")]
    assert len(pictures) == 4  # confirmation, settings, parallel coordinates, curves
    for source in pictures:
        head, _, picture = source.partition(",")
        assert head == "data:image/svg+xml;base64"
        drawn = base64.b64decode(picture)
        root = ElementTree.fromstring(drawn)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        outside = re.findall(rb'(?:href|src)="(?!#)([^"]*)"', drawn)
        assert all(one.startswith(b"data:") for one in outside)
    assert "http:" not in re.sub(r"data:[^\"]*", "", content)
    for words in ("log_uniform(1e-4, 1e-1)", "98.00 %", "pruned", "non-finite", "winner.py"):
        assert words in page.text
    results.write(
        plan, tmp_path, trials, trials[3], {"winner": scores(0.98, 0.96), "base": scores(0.9, 0.91)}
    )
    assert (tmp_path / "report.html").read_text() == content  # equal sweeps give equal pages


def test_page_where_all_diverged(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, sweep__space__optimizer__learning_rate="choice(1e30,)")
    seeds: list[dict[str, Any]] = [
        {"seed": seed, "value": None, "diverged": 3, "rows": [], "fingerprint": ""} for seed in (0, 1)
    ]
    trials = [Result(0, plan.point(0), NONFINITE, None, seeds)]
    assert results.write(plan, tmp_path, trials, None, {}) == {}
    assert "Every trial diverged." in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "best.json").exists()


@pytest.mark.parametrize("name", ['it\'s "it"', '"""', "a\\Nb", "a\nb", "\\'\"", "é {x}"])
def test_winner_file_of_a_folder_of_any_name(plan: plan_lib.Plan, tmp_path: Path, name: str) -> None:
    trials = made_up(plan)
    (tmp_path / name).mkdir()
    best = results.write(plan, tmp_path / name, trials, trials[3], {})
    config = experiment_file.load(shlex.split(best["command"])[3].removeprefix("--config="))
    assert config.to_dict()["optimizer"]["learning_rate"] == trials[3].settings["optimizer.learning_rate"]
    assert config.to_dict()["seed"] == plan.confirm_seeds[0]  # none of those it was chosen by


@pytest.mark.parametrize(
    ("options", "even"),
    [
        ((1e-4, 1e-3, 1e-2), True),
        ((1e-4, 2e-4, 1e-1), True),
        ((1e-4, 1e-3, 1e-1), False),
        ((0.99, 0.9999), True),
    ],
)
def test_choices_lie_by_their_logarithm_where_there_is_room(options: tuple[float, ...], even: bool) -> None:
    axis, panel = plan_lib.Axis("optimizer.b2", space.Choice(options), ""), Figure().subplots()
    place = scales.place_of(panel, axis, vertical=False)
    places = [place(option) for option in options]
    assert (places == pytest.approx(list(range(len(options))))) == even
    panel.figure.canvas.draw()
    assert [label.get_text() for label in panel.get_xticklabels()] == [str(option) for option in options]


def test_numbers_close_to_one_are_told_apart() -> None:
    values = (0.9, 0.99, 0.999, 0.9996, 0.99999, 0.001, 1.0, 0.95)
    told = [progress.describe({"optimizer.b2": value}) for value in values]
    assert told == [f"b2={value:g}" for value in values]
    assert progress.describe({"optimizer.learning_rate": 0.0123456}) == "learning_rate=0.01235"


def test_text_of_the_user_is_escaped(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, dataset__name="<script>alert(1)</script>")
    results.write(plan, tmp_path / "", [], None, {})
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_heights_and_marks() -> None:
    heights = [axes.height(True, value) for value in (0.0, 0.9, 0.99, 0.999, 1.0)]
    assert heights[:4] == pytest.approx([0, 1, 2, 3])
    assert heights[4] > heights[3]
    assert axes.height(False, 0.01) == pytest.approx(-2)
    assert axes.limits([]) == pytest.approx((-0.07, 1.07))
    assert axes.limits([1.0, 1.0]) == (0.9, 1.1)
    for values in ((0.1, 0.999), (0.985, 0.992)):
        panel = Figure().subplots()
        panel.set_ylim(*(axes.height(True, value) for value in values))
        axes.value_axis(panel, "validation/accuracy", True)
        panel.figure.canvas.draw()
        (low, high), labels = panel.get_ylim(), [label.get_text() for label in panel.get_yticklabels()]
        inside = {
            at: label for at, label in zip(panel.get_yticks(), labels, strict=True) if low <= at <= high
        }
        assert len(inside) >= 4
        for at, label in inside.items():  # in percent
            assert axes.height(True, float(label) / 100) == pytest.approx(at)
        assert panel.get_ylabel() == "validation/accuracy, %"


def test_settings_lie_on_their_scales(plan: plan_lib.Plan) -> None:
    for axis, value, place in zip(plan.axes, (32, (4, 8), 0.9, 1e-2), (32.0, 1.0, 0.9, 1e-2), strict=True):
        panel = Figure().subplots()
        assert scales.place_of(panel, axis, vertical=False)(value) == place
        assert panel.get_xscale() == ("log" if axis.leaf == "optimizer.learning_rate" else "linear")
        low, high = panel.get_xlim()
        assert low < place < high


class Screen(io.StringIO):
    """A terminal's file."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_trials_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    screen, plan = Screen(), sweeping.make(FOLDER)
    monkeypatch.setattr(sys, "stdout", screen)
    for name, value in {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(progress.Board(Terminal("bar"), plan, 1000, 400)) as board:
        for number in range(2):
            board.trial(Trial(number, plan.point(number)), None)
        rows: Any = ({"validation/accuracy": 0.91234},)
        board.update("job", [Member(1, 0)], executor.Update(1.25, 100, rows))
    shown = re.sub(r"\x1b\[\??\d*[a-zA-Z]", "", screen.getvalue())
    first = next(line for line in shown.splitlines() if "epoch 1.25" in line)
    for cell in ("1 ", "91.23 %", "epoch 1.25", "learning_rate=0.01" if columns > 40 else "learning_r"):
        assert cell in first
    assert " 50 %" in shown  # how much is done, beside the bar
