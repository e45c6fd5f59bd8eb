"""Seconds and images of all the processes that worked on a run."""

import time

import pytest

from mmids_cnn import loop
from mmids_cnn.runs.clock import Clock


def test_what_was_spent_before_counts() -> None:
    first = Clock(time.perf_counter() - 100, data=5.0)
    before = first.read(loop.Seconds(data=1.0, compile=2.0, train=3.0, eval=4.0), images=50)
    assert before.pop("total") == pytest.approx(100, abs=5)
    assert before == {"data": 6.0, "compile": 2.0, "train": 3.0, "eval": 4.0, "images": 50.0}
    second = Clock(time.perf_counter() - 10, data=0.5)
    second.before = before | {"total": 100.0}
    both = second.read(loop.Seconds(data=0.25, compile=0.5, train=1.0, eval=2.0), images=7)
    assert both.pop("total") == pytest.approx(110, abs=5)
    assert both == {"data": 6.75, "compile": 2.5, "train": 4.0, "eval": 6.0, "images": 57.0}
    assert second.elapsed() == pytest.approx(10, abs=5)
