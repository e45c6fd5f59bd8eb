"""Files that are whole or absent: the order of the system calls, and what a full disk leaves behind."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.errors import RunError
from mmids_cnn.storage import files


def test_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut may leave the new name with nothing in it."""
    calls: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").read_text()))
        sync(descriptor)

    def replaced(old: Any, new: Any) -> None:
        calls.append(("replace", Path(old).read_text()))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    files.write_text(tmp_path / "it", "content")
    assert calls == [("fsync", "content"), ("replace", "content")]
    assert (tmp_path / "it").read_text() == "content"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_text(tmp_path / "it", "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "it", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"it": "old"}


def test_json_that_every_reader_takes(tmp_path: Path) -> None:
    nan, infinity = float("nan"), float("inf")
    files.write_json(tmp_path / "it", {"a": (1, nan), "b": {"c": [-infinity, 2.5]}})
    assert files.read_json(tmp_path / "it") == {"a": [1, None], "b": {"c": [None, 2.5]}}


def test_digest_of_json_depends_on_values_alone() -> None:
    digest = files.digest_of_json({"a": 1, "b": [2]})
    assert files.digest_of_json({"b": [2], "a": 1}) == digest
    assert files.digest_of_json({"a": 1, "b": [3]}) != digest


def test_two_processes_may_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other begins and ends while this one is about to give the file its name."""
    other = "import pathlib, sys; from mmids_cnn.storage import files; "
    other += "files.write_text(pathlib.Path(sys.argv[1]), 'theirs')"

    def meanwhile(descriptor: int) -> None:
        subprocess.run([sys.executable, "-c", other, str(tmp_path / "it")], check=True, timeout=60)
        assert (tmp_path / "it").read_text() == "theirs"

    monkeypatch.setattr(os, "fsync", meanwhile)
    files.write_text(tmp_path / "it", "ours")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"it": "ours"}


def test_lock_where_files_can_be_locked_and_folders_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems."""
    lock = fcntl.flock

    def without_folders(number: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(number, operation)

    monkeypatch.setattr(fcntl, "flock", without_folders)
    with files.lock(tmp_path / ".lock"), pytest.raises(RunError), files.lock(tmp_path / ".lock"):
        pass
