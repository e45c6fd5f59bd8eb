"""Marks of an axis of shares are round, and do not stand on one another."""

import numpy as np
import pytest

from mmids_cnn.pages import axes


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.08, 0.99), (0.9, 0.9999), (0.5, 0.55)])
def test_marks_do_not_crowd(low: float, high: float) -> None:
    heights = [axes.height(True, mark) for mark in axes._shares(low, high) if low <= mark <= high]
    whole = axes.height(True, high) - axes.height(True, low)
    assert len(heights) >= 3
    assert np.diff(heights).min() > whole / 20
