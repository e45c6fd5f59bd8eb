"""Compiled programs: their cache, so that later starts skip compiling, and the memory that compiling takes.

JAX writes its entries in place: a kill or a full disk leaves torn ones, of which it warns at every start ever
after. Here such an entry is removed, and the run that met it writes it again.
"""

import contextlib
import ctypes
import glob
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from mmids_cnn.errors import ConfigError

_OFF = ("0", "off", "false", "f", "no", "n")  # as JAX reads it
_USABLE = {
    **dict.fromkeys(("JAX_DISABLE_JIT", "JAX_NO_TRACING", "JAX_NO_EXECUTION"), _OFF),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
    "JAX_NUMPY_RANK_PROMOTION": ("allow", "warn"),
    **{
        f"JAX_TRANSFER_GUARD{which}": ("allow", "log", "log_explicit")
        for which in ("", "_HOST_TO_DEVICE", "_DEVICE_TO_HOST", "_DEVICE_TO_DEVICE")
    },
}

_UNUSABLE = "the compilation cache {} cannot be {}; set --compilation_cache"
_WARNING = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(?P<name>[^']+)'")
_SYSTEM = re.compile(r"\[Errno \d+\] ([^:]*)")  # of the system, and not of what is in an entry


def use_cache(folder: str | None) -> None:
    """Tells JAX, before it is imported, where its cache is.

    Args:
      folder: the cache; '' is none; None is that of JAX_COMPILATION_CACHE_DIR, else `mmids_cnn/compiled` in
        the user's cache folder. One that JAX cannot take is none, and told of.
    """
    if folder is None:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - no home
        folder = str(Path(cache) / "mmids_cnn" / "compiled")
    if os.fsencode(folder) != folder.encode(errors="replace"):  # JAX takes UTF-8 alone
        print(f"note: {_UNUSABLE.format(ascii(folder), 'used: its path is not UTF-8')}", file=sys.stderr)
        folder = ""
    if not folder:
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    # JAX's defaults skip programs that compile in under a second; ours are many small ones.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    _remove_torn_entries(Path(folder))


def require() -> None:
    """Raises `ConfigError` where JAX would be told what no step survives; to be called before its import."""
    for name, usable in _USABLE.items():
        found = os.environ.get(name, usable[0])
        if found.lower() not in usable:
            raise ConfigError(
                f"{name}: expected one of {', '.join(usable)}, as steps are compiled programs of plain JAX, "
                f"found {found!r}; unset it"
            )


def tell(what: str) -> None:
    """Says on standard error what a cache could not do."""
    print(f"note: {' '.join(what.split())}", file=sys.stderr, flush=True)


def compile_lowered(lowered: Any, *, quickly: bool = False) -> Any:
    """Compiles what `jax.jit(...).lower(...)` returned, and gives the system back the memory that took.

    The compiler's threads free about 200 MB that the C library would keep, which then counts beside what
    training needs. Where the library is another than glibc it is left as it is.

    Args:
      lowered: the program.
      quickly: on a CPU with less optimization, in two thirds of the time. Steps are as fast then, as their
        time goes into products of a library, and sums of few numbers may be rounded otherwise.
    """
    compiled = lowered.compile(_options(1) if quickly else None)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # of a system without it
        ctypes.CDLL(None).malloc_trim(0)
    return compiled


def run_once(function: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Any:
    """`jax.jit` for what runs once: on a CPU compiled with little optimization, in a sixth of the time."""
    import jax  # here, as what is above is needed before it is imported

    return jax.jit(function, static_argnames=static_argnames, compiler_options=_options(0))


def _options(level: int) -> dict[str, Any] | None:
    import jax

    return {"xla_backend_optimization_level": level} if jax.default_backend() == "cpu" else None


def _remove_torn_entries(folder: Path) -> None:
    """From now on an entry that JAX warns of is removed, before JAX writes it.

    That the whole cache cannot be used is said once: JAX would name each program that it cannot write.
    """
    show, said = warnings.showwarning, set[str]()

    def remove(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        match = _WARNING.match(str(message))
        if match is None:
            show(message, category, filename, lineno, file, line)
            return
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{glob.escape(match['name'])}-*-cache"):
                path.unlink()
        failed = _SYSTEM.search(str(message))
        note = f"{' '.join(str(message).split())}; compiled anew"
        if failed:
            note = _UNUSABLE.format(folder, f"written: {failed[1]}")
        if note not in said:
            tell(note)
        said.add(note)

    warnings.showwarning = remove
