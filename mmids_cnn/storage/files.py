"""Files that are either whole or not there, and locks that end with the process that holds them."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmids_cnn.errors import FaultError, RunError

_ADVICE = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some of the quota, then give the same command again",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), then give the same command again",
    errno.EIO: "check the disk, then give the same command again",
    errno.EROFS: "the file system is read-only: name a folder that can be written",
    errno.EACCES: "name a folder that can be written, or change its permissions",
    errno.EPERM: "name a folder that can be written, or change its permissions",
    errno.ENOTDIR: "a part of the path is a file: name another folder",
    errno.EEXIST: "a file has that name: name another folder",
    errno.EISDIR: "a folder has that name: remove it or name another place",
}


def write_text(path: Path, text: str) -> None:
    """Writes a text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a kill or a full disk leaves the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, to_json(content, indent=2) + "\n")


def to_json(content: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite becomes null."""

    def strict(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: strict(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [strict(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(strict(content), indent=indent, allow_nan=False)


def digest_of_json(content: Mapping[str, Any]) -> str:
    """SHA-256 over plain values, the same for equal ones."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Reads a JSON file; a missing or damaged one is a `RunError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path}: expected a JSON file, found none") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: expected a JSON file, found {error}") from None


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with a digest of its own content, the entry `self`, by which `read_sealed` checks it."""
    plain = json.loads(to_json(content))  # as it will be read
    write_json(path, plain | {"self": digest_of_json(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads what `write_sealed` wrote; of earlier versions, which did not seal every file, as it is.

    Raises:
      RunError: it is missing, or not what was written.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if content.pop("self", None) not in (None, digest_of_json(content)):
        raise RunError(f"{path}: expected what was written, found other content")
    return content


def digest(path: Path) -> str | None:
    """SHA-256 over a file's bytes; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def numbered(folder: Path) -> list[int]:
    """Numbers that are names in a folder, ascending; a missing folder has none."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, tried out: permissions alone do not tell (read-only disks)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def obstacle(folder: Path) -> str | None:
    """What stands in the way of making a folder, or of writing into it; None where nothing does."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name that is too long, for one
        return f"{error.strerror} for {folder}"
    return None if existing.is_dir() and writable(existing) else str(existing)


def is_utf8(path: Path) -> bool:
    """Whether the system's name of a path is UTF-8: C++ libraries write to no other."""
    try:
        return os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:  # bytes that are no text, or a letter that the locale does not have
        return False


@contextlib.contextmanager
def faults(doing: str) -> Iterator[None]:
    """Turns an `OSError` raised inside into one line: what was being done, what failed, what to do."""
    try:
        yield
    except OSError as error:
        raise FaultError(describe(doing, error)) from error


def describe(doing: str, error: OSError) -> str:
    """One line about a failed system call, with advice."""
    where = f" ({error.filename})" if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "see to it, then give the same command again")
    return f"{doing}: {error.strerror or error}{where}; {advice}"


def cause(error: Exception) -> OSError | None:
    """The failed system call behind an error, also of a library that only writes about it; or None.

    A missing file counts as none: it is damage, not a fault.
    """
    if isinstance(error, OSError) and error.errno:
        return None if error.errno == errno.ENOENT else error
    texts = {number: os.strerror(number) for number in _ADVICE}
    return next((OSError(number, text) for number, text in texts.items() if text in str(error)), None)


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds an exclusive lock; the kernel drops it when the process ends, however it ends.

    Args:
      path: the lock file; it stays, and names its last holder. One that is called `.lock` stands for its
        folder, which is locked itself too: so that nobody gets in where the file is deleted.
      waiting: called with the holder's name, once, before waiting for it; None refuses instead.

    Raises:
      RunError: another process holds the lock, and `waiting` is None.
    """
    with contextlib.ExitStack() as opened:
        with faults(f"locking {path.parent}"):
            file = opened.enter_context(open(path, "a+b", buffering=0))
            _hold(file.fileno(), file, waiting)
            if path.name == ".lock":
                folder = os.open(path.parent, os.O_RDONLY)
                opened.callback(os.close, folder)
                _hold(folder, file, waiting)
        with contextlib.suppress(OSError):  # it is held, also where a full disk takes no name
            file.truncate(0)
            command = " ".join(sys.argv)[:200]
            name = f"process {os.getpid()} on {socket.gethostname()} ({command})\n"
            file.write(name.encode(errors="backslashreplace"))
        yield


def _hold(number: int, file: IO[bytes], waiting: Callable[[str], None] | None) -> None:
    """Locks an open file or folder; `file` names who holds it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="backslashreplace").strip() or "another process"
        if waiting is None:
            raise RunError(
                f"{Path(os.fsdecode(file.name)).parent}: expected no other run here, found {holder} at work; "
                "wait for it, or name another folder with --workdir"
            ) from None
        waiting(holder)
        fcntl.flock(number, fcntl.LOCK_EX)
    except OSError:
        if number == file.fileno():  # network file systems lock files, but no folders
            raise
