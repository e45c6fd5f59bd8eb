"""What is shown on narrow terminals, and without one."""

import io
import re
import sys

import pytest

from mmids_cnn.console.terminal import Terminal, counted

ROW = {
    "step": 469,
    "epoch": 1.0,
    "seconds": 7.7,
    "train/loss": 0.3543,
    "train/accuracy": 0.8973,
    "test/loss": 0.09929,
    "test/accuracy": 0.9679,
    "test/count": 10_000,
}


class Screen(io.StringIO):
    """A terminal's file."""

    def isatty(self) -> bool:
        return True


def of_width(monkeypatch: pytest.MonkeyPatch, columns: int, term: str = "xterm") -> tuple[Terminal, Screen]:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", term)
    return Terminal("auto"), screen


def show(name: str, value: float | None) -> str:
    return f"{100 * (value or 0):.2f} %" if name.endswith("accuracy") else f"{value:.4g}"


def test_metrics_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, screen = of_width(monkeypatch, 40)
    terminal.row(ROW, show)
    assert screen.getvalue().splitlines() == [
        "step 469  epoch 1  seconds 7.7",
        "  train/loss 0.3543",
        "  train/accuracy 89.73 %",
        "  test/loss 0.09929",
        "  test/accuracy 96.79 %",
    ]
    terminal, screen = of_width(monkeypatch, 100)
    terminal.row(ROW, show)
    heading, numbers = screen.getvalue().splitlines()
    assert heading.split() == [name for name in ROW if name != "test/count"]
    assert len(heading) == len(numbers)


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal, screen = of_width(monkeypatch, columns)
    rows = [("optimizer.learning_rate", "log_uniform(1e-4, 1e-1)"), ("model.channels", "choice((4,),(8,16))")]
    terminal.table("", ("setting", "space"), rows)
    shown = re.sub(r"\x1b\[\d*m", "", screen.getvalue())
    assert max(map(len, shown.splitlines())) <= columns
    assert ("\N{BOX DRAWINGS LIGHT VERTICAL}" in shown) == (columns > 40)
    for row in rows:
        assert all(cell in shown for cell in row)


@pytest.mark.parametrize("columns", [40, 60, 75, 100])
def test_bar_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal, screen = of_width(monkeypatch, columns)
    assert terminal.mode == "bar"
    terminal.progress("epoch 12/100", 300_000, 600_000, 15_899, "images")
    terminal.close()
    frames = screen.getvalue().split("\x1b[2K")  # how many a thread of rich has drawn depends on the clock
    shown = [frame for frame in frames if "epoch" in frame][-1]
    assert re.match(r"epoch 12/100 .*━.* 50 % .* 0:19 left\s", shown), shown
    assert ("15,899 images/s" in shown) == (columns >= 75)


def test_terminal_that_cannot_take_a_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_width(monkeypatch, 80, term="dumb")[0].mode == "plain"


def test_work_that_begins_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    terminal = Terminal("auto")
    for done in (1000, 2000, 3000):
        terminal.report("preparing mnist", done, 70_000)
    terminal.report("decoding train", 1000, 60_000)
    assert [line.split(",")[0] for line in shown.getvalue().splitlines()] == [
        "preparing mnist  1",
        "decoding train  1",
    ]


def test_counted() -> None:
    assert [counted(n, "seed") for n in (0, 1, 1200)] == ["0 seeds", "1 seed", "1,200 seeds"]
