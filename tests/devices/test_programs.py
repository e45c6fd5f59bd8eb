"""Programs that are kept: the same bits without tracing, and another name for all that changes them."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.own_network import ResNet
from mmids_cnn.devices import programs
from mmids_cnn.networks.conv_net import ConvNet
from mmids_cnn.storage import files
from tests.support.processes import Place

X = jnp.linspace(-1, 1, 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, in which JAX says it has compiled everything."""
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.setattr(programs, "_events", lambda: contextlib.nullcontext([programs._COMPILED]))
    monkeypatch.setattr(programs, "_SINCE", time.time())
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def compiled(traced: list[int], *parts: Any) -> np.ndarray:
    """The sine of `X`; `traced` grows whenever it is traced."""

    def function(x: jax.Array) -> jax.Array:
        traced.append(len(x))
        return jnp.sin(x)

    program = programs.compile_once(jax.jit(function), (X,), X, ("sine", *parts))
    return np.asarray(program(X))


def test_what_is_kept_is_not_traced_again(folder: Path) -> None:
    traced = list[int]()
    first, again = compiled(traced), compiled(traced)
    assert (first.tobytes(), traced) == (again.tobytes(), [7])
    assert len(list(folder.glob("program-*"))) == 1
    compiled(traced, "other")
    assert traced == [7, 7]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_entry_is_said_and_made_anew(
    folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = list[int]()
    first = compiled(traced)
    (path,) = folder.glob("program-*")
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "cut": whole[:-1],
            "empty": b"",
            "other": os.urandom(1000),
        }[damage]
    )
    assert compiled(traced).tobytes() == first.tobytes()
    said = capsys.readouterr().err
    assert said.startswith("note: the compiled program program-") and said.endswith("; compiled anew\n")
    assert said.count("\n") == 1
    compiled(traced)
    assert (traced, capsys.readouterr().err) == ([7, 7], "")


def test_whatever_changes_a_program_changes_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(x: Any = X, *parts: Any, quickly: bool = False) -> Path | None:
        return programs._path((x,), parts, quickly)

    names = [
        name(),
        name(X[:3]),
        name(X.astype(jnp.int32)),
        name(jax.device_put(X, jax.local_devices()[1])),
        name({"x": X}),
        name(X, "adam"),
        name(X, ConvNet(10)),
        name(X, ConvNet(10, channels=(8,))),
        name(quickly=True),
    ]
    for setting, value in (("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"), ("PJRT_NPROC", "3")):
        with monkeypatch.context() as patch:
            patch.setenv(setting, value)
            names.append(name())
    changed: list[tuple[str, Any]] = [
        ("_sources", lambda: "x"),
        ("_cpu", lambda: "x"),
        ("_VERSIONS", ("jax",)),
    ]
    for place, value in changed:
        with monkeypatch.context() as patch:
            patch.setattr(programs, place, value)
            names.append(name())
    with jax.numpy_rank_promotion("raise"):
        names.append(name())
    assert None not in names and len(set(names)) == len(names)
    assert name() == names[0]


def test_what_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("my_parts:loss", ("accuracy", "my_parts:metric"), ResNet(10), Path()):
        assert programs._path((X,), (part,), False) is None
    assert programs._path((X,), (), False) is not None
    monkeypatch.setattr(programs, "_SINCE", 0.0)  # all sources are younger
    assert programs._path((X,), (), False) is None
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", None)
    assert programs._path((X,), (), False) is None


def test_what_jax_had_compiled_before_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be written down a second time."""
    monkeypatch.setattr(programs, "_events", lambda: contextlib.nullcontext(["cache_hits"]))
    compiled([])
    assert list(folder.glob("program-*")) == []


def test_entries_that_nobody_asked_for_in_a_month_are_removed(folder: Path) -> None:
    compiled([], "old")
    compiled([], "young")
    old, young = sorted(folder.glob("program-*"), key=lambda path: path.stat().st_mtime)
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    compiled([], "new")
    assert not old.exists() and young.exists() and len(list(folder.glob("program-*"))) == 2


# The command, as if the sources had been there for long, which they are not where one is at work on them.
COMMAND = """
import runpy, time
import jax
from mmids_cnn.devices import programs
programs._SINCE = time.time()
jax.config.update("jax_log_compiles", True)
runpy.run_module("mmids_cnn.main", run_name="__main__", alter_sys=True)
"""


def test_second_command_traces_no_step(place: Place, tmp_path: Path) -> None:
    """And has the bits of the first one."""
    environment = place.environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    results = []
    for workdir in ("first", "second"):
        arguments = place.command(workdir, "--config.num_epochs=1")[3:]
        done = place.forking(place.work, *arguments, code=COMMAND, environment=environment)
        assert done.returncode == 0
        assert "jit(init)" in done.stderr and ("jit(advance)" in done.stderr) == (workdir == "first")
        results.append(files.read_sealed(place.work / workdir / "result.json")["fingerprint"])
    assert results[0] == results[1]
