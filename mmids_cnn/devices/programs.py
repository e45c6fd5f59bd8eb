"""Finished programs, kept beside JAX's compiled ones: a later start neither traces nor compiles them again.

JAX asks its cache with the program itself, which has to be traced and lowered first; for the steps of
training that takes a second. Here a program is known by all that it is made of: the sources of this package,
versions, the machine, settings of JAX and XLA, the types of its arguments, and what is compiled into it.
Programs with code of one's own in them are not kept, as nothing here knows what that code imports, nor are
those of other devices than a CPU, or of several processes.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from mmids_cnn.devices import compilation, cores

_PACKAGE = Path(__file__).parents[1]
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")
_SINCE = time.time() - 60  # seconds: sources that are younger may not be those that were imported
_COMPILED = "/jax/compilation_cache/cache_misses"  # what JAX calls it
_MONTH = 30 * 24 * 3600.0  # seconds: entries that nobody asked for in that time are removed


def compile_once(
    function: Any, arguments: Sequence[Any], result: Any, parts: Sequence[Any], *, quickly: bool = False
) -> Callable[..., Any]:
    """The program of a jitted function for arguments like these, as it was kept or else made anew.

    Args:
      function: as `jax.jit` returns it.
      arguments: arrays where they will be, or their shapes.
      result: something of the structure of what it returns.
      parts: what else is compiled into it, names of `config` and networks among them.
      quickly: as of `compilation.compile_lowered`.
    """
    path = _path(arguments, parts, quickly)
    if path is not None and path.exists():
        found = _read(path, arguments, result)
        if found is not None:
            return found
    lowered = function.lower(*arguments)
    with _events() as events:
        compiled = compilation.compile_lowered(lowered, quickly=quickly)
    # What comes out of JAX's cache cannot be written down a second time: half of it would be missing.
    if path is not None and _COMPILED in events:
        with contextlib.suppress(OSError):  # JAX tells of a cache that cannot be written
            _write(path, serialize_executable.serialize(compiled)[0])
    return compiled


@contextlib.contextmanager
def _events() -> Iterator[list[str]]:
    """What JAX tells that happens meanwhile."""
    events = list[str]()

    def note(event: str, **facts: Any) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(note)


def _path(arguments: Sequence[Any], parts: Sequence[Any], quickly: bool) -> Path | None:
    """Where a program is kept; None where it is not to be."""
    folder, sources = jax.config.values["jax_compilation_cache_dir"], _sources()
    if not folder or sources is None or jax.default_backend() != "cpu" or not all(map(_is_ours, parts)):
        return None
    if jax.process_count() > 1:  # a program of several is not written down as a whole
        return None
    leaves, tree = jax.tree.flatten(tuple(arguments))
    key = [
        *(sources, sys.version, platform.processor(), _cpu(), cores.count(), os.cpu_count()),
        *(importlib.metadata.version(name) for name in _VERSIONS),
        *sorted((k, v) for k, v in os.environ.items() if k.startswith(("XLA_", "PJRT_"))),
        *sorted((k, str(v)) for k, v in jax.config.values.items() if "cache" not in k),
        *(str(device) for device in jax.devices()),
        *(quickly, parts, tree),
        *((leaf.shape, str(leaf.dtype), getattr(leaf, "weak_type", False)) for leaf in leaves),
        *(getattr(leaf, "sharding", None) for leaf in leaves),
    ]
    text = "\n".join(map(str, key))
    if " at 0x" in text:  # something that another process has elsewhere
        return None
    return Path(folder) / f"program-{hashlib.sha256(text.encode()).hexdigest()}"


def _is_ours(part: Any) -> bool:
    """Whether a name or a module is of this package; names of others have a colon."""
    if isinstance(part, str):
        return ":" not in part
    if isinstance(part, tuple | list):
        return all(map(_is_ours, part))
    return type(part).__module__.partition(".")[0] in ("builtins", __package__.partition(".")[0])


def _sources() -> str | None:
    """A digest of this package's files; None where one was changed since, or just before, their import."""
    unchanged = all(path.stat().st_mtime <= _SINCE for path in _PACKAGE.rglob("*.py"))
    return digest_of_sources() if unchanged else None


@functools.cache
def digest_of_sources() -> str:
    """A digest of this package's files, for which each program of a process asks."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _cpu() -> str:
    """The processor with all that it can do, where the system tells."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU")))
    return platform.machine()


def _read(path: Path, arguments: Sequence[Any], result: Any) -> Callable[..., Any] | None:
    """A program that was kept; None, said and removed, if it is damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("it is not what was written")
        given, returned = jax.tree.structure((tuple(arguments), {})), jax.tree.structure(result)
        found = serialize_executable.deserialize_and_load(
            content[32:], given, returned, execution_devices=_devices(arguments)
        )
        os.utime(path)
    except Exception as error:  # whatever XLA makes of it
        compilation.tell(
            f"the compiled program {path.name[:16]} cannot be used ({type(error).__name__}: {error}); "
            "compiled anew"
        )
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return found


def _devices(arguments: Sequence[Any]) -> list[Any]:
    """The devices that arrays are on, in order."""
    placed = [leaf.sharding for leaf in jax.tree.leaves(arguments) if getattr(leaf, "sharding", None)]
    used = set[Any]().union(*(sharding.device_set for sharding in placed))
    return [device for device in jax.local_devices() if device in used] or jax.local_devices()[:1]


def _write(path: Path, content: bytes) -> None:
    """Writes an entry, whole or not at all, and removes old ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    for old in path.parent.glob("program-*"):
        if time.time() - old.stat().st_mtime > _MONTH:
            old.unlink(missing_ok=True)
