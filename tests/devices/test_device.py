"""What JAX computes on."""

import os
from pathlib import Path

import pytest

from mmids_cnn.devices import device


def test_memory_is_that_of_the_machine_or_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path)
    assert device.memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert device.memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert device.memory() == 1_000_000


def test_first_line_says_what_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "memory", lambda: 60_000_000_000)
    line = device.describe({"platform": "gpu", "kind": "NVIDIA H200", "count": 1})
    assert line.startswith("device: gpu (NVIDIA H200, 1 device(s)); JAX has 60 GB of it, ")
    assert line.endswith("XLA_PYTHON_CLIENT_MEM_FRACTION=0.4")
