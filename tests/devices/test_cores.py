"""How many devices JAX sees a CPU as."""

import os

import pytest

from mmids_cnn.devices import cores
from mmids_cnn.errors import ConfigError

NAME = "JAX_NUM_CPU_DEVICES"


@pytest.mark.parametrize(("found", "want"), [(None, None), ("", None), ("1", "1"), ("12", "12")])
def test_one_device_a_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, found: str | None, want: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {} if found is None else {NAME: found})
    cores.as_devices()
    assert os.environ[NAME] == (want or str(len(os.sched_getaffinity(0))))


@pytest.mark.parametrize("found", ["0", "-1", "two", "1.5", " "])
def test_no_number_of_devices(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(os, "environ", {NAME: found})
    with pytest.raises(ConfigError, match=f"{NAME}: expected a number of devices.*found '{found}'"):
        cores.as_devices()
    assert os.environ == {NAME: found}
