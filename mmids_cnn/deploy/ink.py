"""What on a page is ink: strokes of a pen on paper that light falls on unevenly."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

SHADES = 8  # of 256, the least by which ink differs from its paper
_BLOCKS = 16  # along a side: small beside the page, large beside a pen's stroke
_SAMPLES = 10  # along a side of a block: pixels whose median is taken, which needs no more
_STEP = 12  # of 256: light changes by less from block to block, ink by more
_EDGE = 0.15  # of the level of ink: what is fainter is no soft edge of a stroke
_EDGE_SDS, _INK_SDS = 3, 5  # of the paper's noise, which edges and strokes exceed
_SPECK = 1e-4, 0.03  # of the page and of the largest stroke: what is smaller is no stroke
_ACROSS, _THIN = 0.9, 0.1  # of the page's sides: ruled lines are longer than one, thinner than the other
_RULED_SIDE = 256  # of the grid that ruled lines are looked for in, at most
_RULED_SLOPE = 14  # rows of that grid by which a line rises or falls at most: 3 degrees
_RULED, _RULES = 0.6, (3, 5)  # a line is as long, of a side; so many across or down make a page a ruled one
_ON_LINES = 0.6  # of a stroke's ink: with more of it on ruled lines it is made of them
_BELONGS = 0.25  # of the columns of the narrower of two strokes: as many in common make them one digit

Box = tuple[slice, slice]
"""Rows and columns."""


def strokes(grey: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """How much ink there is at each pixel, and which stroke it belongs to.

    Paper is taken away and Otsu's threshold finds what is ink; soft edges beside it are ink as well, by a
    lower threshold, as in Canny's hysteresis (IEEE Trans. PAMI 8, 1986). Specks are no strokes, nor are the
    lines of ruled paper where they are less than half as dark as the ink.

    Args:
      grey: a page, 0 to 255, dark on light or light on dark.

    Returns:
      Ink from 0, none, to 255, that of the darkest strokes; strokes numbered from 1, paper 0.
    """
    contrast = grey - _paper(grey)
    sample = contrast[:: len(contrast) // 128 + 1]
    if np.sum(sample**3) < 0:  # what is rare and far from the paper is ink
        contrast = -contrast
    noise = max(_sd(sample), SHADES / _INK_SDS)
    threshold = max(_otsu(contrast[contrast > 0], grey.size), _INK_SDS * noise)
    threshold = _above_lines(contrast, threshold)
    ink = contrast > threshold
    if not ink.any():
        return np.zeros_like(grey), np.zeros(grey.shape, int)
    level = float(np.percentile(contrast[ink], 95))
    soft = contrast > min(threshold, max(_EDGE_SDS * noise, _EDGE * level))
    labels = _connected(ink, ink if _across(soft & ~ink) else soft)
    return np.where(labels > 0, np.clip(contrast * (255 / level), 0, 255), 0), labels


def digits(labels: Int[np.ndarray, "h w"]) -> list[tuple[Box, list[int]]]:
    """Strokes as digits from left to right: those above each other, in the same columns, are one.

    Returns:
      For each digit the box around it and the numbers of its strokes.
    """
    boxes = [(box, [number]) for number, box in enumerate(ndimage.find_objects(labels), 1) if box]
    found: list[tuple[Box, list[int]]] = []
    for box, numbers in sorted(boxes, key=lambda pair: pair[0][1].start):
        if found and _common(found[-1][0][1], box[1]) > _BELONGS:
            other, others = found.pop()
            box, numbers = around([other, box]), others + numbers
        found.append((box, numbers))
    return found


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds some boxes."""
    rows, columns = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in (0, 1)
    )
    return rows, columns


def _common(one: slice, other: slice) -> float:
    """The share that two ranges have in common, of the shorter one."""
    both = min(one.stop, other.stop) - max(one.start, other.start)
    return both / min(one.stop - one.start, other.stop - other.start)


def _paper(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The page without its ink: medians of blocks, interpolated by straight lines.

    A block is paper if small steps from block to block lead to it from the border: light changes slowly. Any
    other is full of ink, and has the value of the quadratic surface through those that are paper.
    """
    outermost = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    count = _BLOCKS * _SAMPLES
    places = [((np.arange(count) + 0.5) * (side / count)).astype(int) for side in grey.shape]
    medians = np.median(grey[np.ix_(*places)].reshape(_BLOCKS, _SAMPLES, _BLOCKS, _SAMPLES), axis=(1, 3))
    paper = np.abs(medians - outermost) < _STEP
    paper[1:-1, 1:-1] = False
    turned = [(np.rot90(paper, turn), np.rot90(medians, turn)) for turn in range(4)]
    steps = [(to, np.abs(np.diff(values, axis=0)) < _STEP) for to, values in turned]
    before = 0
    while before < (before := paper.sum()):
        for to, small in steps:
            to[1:] |= to[:-1] & small
    if not paper.all():  # what is beside ink has a little of it
        paper = ndimage.binary_erosion(paper, np.ones((3, 3)), border_value=1)
    if min(grey.shape) < _BLOCKS or not paper.any():
        return np.full_like(grey, outermost)
    y, x = np.mgrid[-1 : 1 : 1j * _BLOCKS, -1 : 1 : 1j * _BLOCKS]
    basis = np.stack([x**i * y**j for i in range(3) for j in range(3 - i)], axis=-1)
    light = medians[paper]
    surface = basis @ np.linalg.lstsq(basis[paper], light, rcond=None)[0]
    blocks = np.where(paper, medians, np.clip(surface, light.min(), light.max())).astype(np.float32)
    return _stretch(_stretch(blocks, grey.shape[0]).T, grey.shape[1]).T


def _sd(values: np.ndarray) -> float:
    """The standard deviation of values about 0, of which up to half are far off: by the lower quartile."""
    return float(np.percentile(np.abs(values), 25)) / 0.3186


def _stretch(values: Float[np.ndarray, "n m"], size: int) -> Float[np.ndarray, "size m"]:
    """Values at the middles of equal parts of a side, by straight lines at each of its pixels."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * (len(values) / size) - 0.5
    part = np.clip(at.astype(int), 0, len(values) - 2)
    share = (at - part)[:, None]
    return values[part] * (1 - share) + values[part + 1] * share


def _otsu(values: Float[np.ndarray, " n"], count: int) -> float:
    """The threshold between two classes that are as far apart as can be (Otsu, IEEE Trans. SMC 9, 1979).

    Args:
      values: those above zero.
      count: of all values, those at zero too.
    """
    counts = np.bincount(np.minimum(values, 255).astype(np.uint8), minlength=256).astype(float)
    counts[0] += count - len(values)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    between = (sums[-1] * below / count - sums) ** 2 / np.maximum(below * (count - below), 1)
    return float(between.argmax() + 1)


def _above_lines(contrast: Float[np.ndarray, "h w"], threshold: float) -> float:
    """A threshold above what is less than half as dark as the rest and all across the page: ruled lines."""
    dark = contrast[contrast > threshold] - threshold
    if not dark.size:
        return threshold
    higher = threshold + _otsu(dark, dark.size)
    lines, ink = (contrast > threshold) & (contrast <= higher), contrast[contrast > higher]
    if not ink.size or not lines.any() or 2 * contrast[lines].mean() > ink.mean():
        return threshold
    return higher if _across(lines) else threshold


def _across(faint: Bool[np.ndarray, "h w"]) -> bool:
    """Whether something is in nearly all columns, or rows: on a page of its own only ruled lines are."""
    return bool(max(faint.any(axis).mean() for axis in (0, 1)) > _ACROSS)


def _ruled(ink: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Where straight lines are, if there are so many of them that the page is a ruled one."""
    factor = -(-max(ink.shape) // _RULED_SIDE)
    fill = [(0, -side % factor) for side in ink.shape]
    blocks = np.pad(ink, fill).reshape(-(-ink.shape[0] // factor), factor, -1, factor)
    small = np.asarray(blocks.any((1, 3)))
    (across, rows), (down, columns) = _lines(small), _lines(small.T)
    if rows < _RULES[0] and columns < _RULES[1]:
        return np.zeros_like(ink)
    lines = ndimage.binary_dilation(across | down.T, np.ones((3, 3)))
    return lines.repeat(factor, 0).repeat(factor, 1)[: ink.shape[0], : ink.shape[1]]


def _lines(ink: Bool[np.ndarray, "h w"]) -> tuple[Bool[np.ndarray, "h w"], int]:
    """Long straight lines from left to right, all of the slope that most ink is on; and their number."""
    height, width = ink.shape
    rises = np.arange(-_RULED_SLOPE, _RULED_SLOPE + 1)
    lifts = np.rint(rises[:, None] * np.linspace(0, 1, width)).astype(int)
    y, x = np.nonzero(ink)
    lines, count, most = np.zeros_like(ink), 0, 0.0
    for lift in lifts:  # a line begins `_RULED_SLOPE` rows above the page or lower, so that it may slope in
        inked = np.bincount(y - lift[x] + _RULED_SLOPE, minlength=height + 2 * _RULED_SLOPE)
        on_page = np.convolve(
            np.bincount(_RULED_SLOPE - lift, minlength=2 * _RULED_SLOPE + 1), np.ones(height)
        )
        shares = inked / np.maximum(on_page, width / 16)
        long = shares > _RULED
        if shares[long].sum() > most:
            most = shares[long].sum()
            lines = long[np.arange(height)[:, None] - lift + _RULED_SLOPE]
            count = int((long & ~np.roll(long, 1)).sum())
    return lines, count


def _connected(ink: Bool[np.ndarray, "h w"], soft: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Numbers of the strokes: connected parts of `soft` with enough ink, specks and ruled lines aside."""
    labels, count = ndimage.label(soft, np.ones((3, 3)))
    sizes = np.bincount(labels[ink], minlength=count + 1)
    keep = sizes > max(_SPECK[0] * labels.size, _SPECK[1] * sizes.max())
    keep &= np.bincount(labels[ink & _ruled(ink)], minlength=count + 1) < _ON_LINES * sizes
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        shares = sorted((part.stop - part.start) / side for part, side in zip(box, labels.shape, strict=True))
        keep[number] &= shares[0] > _THIN or shares[1] < _ACROSS
    return np.where(keep, np.arange(count + 1), 0)[labels]
