"""What on a page is ink, and which strokes make a digit."""

import numpy as np
import pytest
from scipy import ndimage

from mmids_cnn.deploy import ink

HEIGHT, WIDTH = 240, 320
Y, X = np.mgrid[-1 : 1 : 1j * HEIGHT, -1 : 1 : 1j * WIDTH]
NOISE = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH))
GRAIN = ndimage.gaussian_filter(NOISE, 2)
PAPER = {
    "even": np.full((HEIGHT, WIDTH), 200.0),
    "shade": 170 + 50 * (0.6 * X + 0.4 * Y),
    "noise": 200 + 10 * NOISE,
    "grain": 200 + 10 * GRAIN / GRAIN.std(),
    "vignette": 220 * (1 + 0.15 * (X**2 + Y**2)) ** -2,
    "shadow": 200 - 40 / (1 + np.exp(-(X + 0.3 * Y) / 0.05)),
    "ruled": np.where((np.arange(HEIGHT) % 30 < 2)[:, None], 170, 205.0) * np.ones(WIDTH),
}
BAR = np.s_[100:180, 150:165]


def stroked(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ink.strokes(np.clip(np.rint(page), 0, 255).astype(np.float32))


@pytest.mark.parametrize("light", [False, True], ids=["dark on light", "light on dark"])
@pytest.mark.parametrize("paper", PAPER)
def test_a_stroke_is_found_on_any_paper(paper: str, light: bool) -> None:
    page = PAPER[paper].copy()
    page[BAR] -= 100
    level, labels = stroked(255 - page if light else page)
    ((rows, columns), numbers), *others = ink.digits(labels)
    found = [rows.start, rows.stop, columns.start, columns.stop]
    np.testing.assert_allclose(found, [100, 180, 150, 165], atol=1)
    assert (level[BAR].mean() > 200, len(numbers), others) == (True, 1, [])
    assert not level[:95].any() and not level[185:].any()


@pytest.mark.parametrize("paper", PAPER)
def test_paper_alone_has_no_ink(paper: str) -> None:
    for page in (PAPER[paper], 255 - PAPER[paper]):
        level, labels = stroked(page)
        assert not level.any() and not labels.any()


def test_ruled_lines_may_be_more_than_the_ink() -> None:
    """Otsu's threshold is then between paper and lines."""
    page, bar = PAPER["ruled"].copy(), np.s_[115:127, 150:153]
    page[bar] -= 100
    assert [box for box, _ in ink.digits(stroked(page)[1])] == [bar]


@pytest.mark.parametrize("dark", [190, 100, 40])
@pytest.mark.parametrize("tilt", [0, 1.5, -2.5])
@pytest.mark.parametrize("inset", [0, 48])
@pytest.mark.parametrize("also", ["", "margin", "squares"])
def test_ruled_paper_without_a_digit_has_none(dark: int, tilt: float, inset: int, also: str) -> None:
    """Lines as dark as ink, which end before the page does, cross others, and are not quite level."""
    y, x = np.mgrid[:480, :640].astype(np.float32)
    down, right = y - np.tan(np.radians(tilt)) * x, x + np.tan(np.radians(tilt)) * y
    inside = (x >= inset) & (x < 640 - inset)
    lines = (down % 40 < 2) & inside
    if also == "margin":
        lines |= np.abs(right - 100) < 1.5
    if also == "squares":
        lines |= (right % 40 < 2) & (y >= inset) & (y < 480 - inset)
    page = np.where(lines, dark, 228) + 3 * np.random.default_rng(0).standard_normal((480, 640))
    assert ink.digits(stroked(page)[1]) == []


def test_specks_are_no_ink() -> None:
    page = PAPER["noise"].copy()
    for top, left in np.random.default_rng(1).integers(0, 230, (30, 2)):
        page[top : top + 2, left : left + 2] = 20
    assert not stroked(page)[1].any()
    page[BAR] -= 100
    assert [box for box, _ in ink.digits(stroked(page)[1])] == [BAR]


def test_strokes_in_the_same_columns_are_one_digit() -> None:
    """A stroke that begins just before another ends is a digit of its own."""
    page = PAPER["even"].copy()
    for rows, columns in (((150, 170), (60, 100)), ((100, 140), (50, 80)), ((100, 145), (95, 130))):
        page[slice(*rows), slice(*columns)] = 50
    found = ink.digits(stroked(page)[1])
    assert [box for box, _ in found] == [np.s_[100:170, 50:100], np.s_[100:145, 95:130]]
    assert [len(numbers) for _, numbers in found] == [2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_otsus_threshold_is_the_best_of_all(seed: int) -> None:
    """The variance between the classes is largest, computed here from its definition."""
    choose = np.random.default_rng(seed)
    faint, dark = choose.normal(60, 20, 3000), choose.normal(160, 25, choose.integers(100, 3000))
    values = np.clip(np.concatenate([faint, dark]), 1, 255).astype(np.uint8).astype(np.float32)
    all_values = np.concatenate([values, np.zeros(5000)])

    def between(threshold: int) -> float:
        classes = all_values[all_values < threshold], all_values[all_values >= threshold]
        return sum(len(one) * (one.mean() - all_values.mean()) ** 2 for one in classes if len(one))

    best = max(map(between, range(1, 256)))
    assert between(int(ink._otsu(values, len(all_values)))) == pytest.approx(best)
