"""Which differences between two records of provenance are told, and which are not."""

import copy
import functools
import operator
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder, provenance
from mmids_cnn.storage import files

BEFORE: dict[str, Any] = {
    "command": ["python", "-m", "mmids_cnn.main"],
    "mmids_cnn": "0.1.0",
    "git_commit": "abc",
    "git_dirty": False,
    "python": "3.12.1",
    "packages": {"jax": "0.8.0", "numpy": "2.0.0"},
    "platform": "Linux",
    "device": {"platform": "cpu", "kind": "cpu", "count": 2},
    "xla_flags": "",
    "dataset": {"name": "mnist", "fingerprint": "f"},
    "seed": 0,
    "sources": {"mine:Net": {"root": "/a", "sha256": "s"}},
}


@pytest.mark.parametrize(
    ("path", "value", "phrase"),
    [
        ("xla_flags", "--xla_x", "xla_flags was , is --xla_x"),
        ("python", "3.13.0", "python was 3.12.1, is 3.13.0"),
        ("git_commit", "def", "git_commit was abc, is def"),
        ("device.count", 4, "device was {'platform': 'cpu', 'kind': 'cpu', 'count': 2}, is {'platform': "),
        ("dataset.fingerprint", "g", "data was f, is g"),
        ("packages.jax", "0.9.0", "jax was 0.8.0, is 0.9.0"),
        ("sources.mine:Net.sha256", "t", "the source of mine:Net was s, is t"),
    ],
)
def test_what_may_change_bits_is_told(path: str, value: Any, phrase: str) -> None:
    now = copy.deepcopy(BEFORE)
    *sections, last = path.split(".")
    section = functools.reduce(operator.getitem, sections, now)
    section[last] = value
    (found,) = provenance.changes(BEFORE, now)
    assert found.startswith(phrase)


def test_what_changes_no_bits_is_not_told() -> None:
    other = {"command": [], "git_dirty": True, "platform": "elsewhere", "seed": 1, "mmids_cnn": "0.2.0"}
    assert provenance.changes(BEFORE, BEFORE | other) == []


def test_record_of_an_earlier_version_lacks_what_is_new() -> None:
    assert provenance.changes({}, BEFORE)[0] == "python was None, is 3.12.1"


OWN = "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("", OWN, True),
        (f"--xla_a=1 --xla_b {OWN}", f" --xla_b=true  {OWN} --xla_a=0 --xla_a=1", True),
        (OWN, f"--xla_dump_to=/x --xla_force_host_platform_device_count=8 {OWN}", True),
        (None, f"--xla_a=1 {OWN}", True),  # of an earlier version
        (OWN, f"--xla_a=1 {OWN}", False),
        (f"--xla_a=1 {OWN}", OWN, False),
        (f"--xla_a=1 {OWN}", f"--xla_a=2 {OWN}", False),
        ("--xla_gpu_deterministic_ops=false", OWN, False),
    ],
)
def test_flags_of_xla_have_to_be_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None, now: str, same: bool
) -> None:
    record = BEFORE | {"jax": provenance.settings(), "xla_flags": before}
    files.write_sealed(tmp_path / folder.PROVENANCE, {k: v for k, v in record.items() if v is not None})
    monkeypatch.setenv("XLA_FLAGS", now)
    if same:
        provenance.require_settings(tmp_path)
    else:
        with pytest.raises(RunError, match="change XLA_FLAGS back, or name another --workdir") as caught:
            provenance.require_settings(tmp_path)
        assert f"xla_flags: {before!r} there, {now!r} here" in str(caught.value)
