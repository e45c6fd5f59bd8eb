"""Checkpoints: what was saved comes back to the bit, or is named and passed over for an older one."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmids_cnn.errors import FaultError, RunError
from mmids_cnn.storage import checkpoints, digests, files
from tests.support import processes

Tree = dict[str, Any]
STEPS = (7, 14, 21)
RANDOM = np.random.default_rng(0)


def tree(step: int) -> Tree:
    return {
        "params": {
            "kernel": np.float32(RANDOM.standard_normal((40, 30))),
            "bias": np.full(30, step, np.float32),
        },
        "half": np.asarray(jnp.arange(7, dtype=jnp.bfloat16) + step),
        "count": np.int32(step),
        "key": np.uint32([step, 2**32 - 1]),
        "odd": {"nan": np.float32([math.nan, math.inf, -0.0])},
    }


TREES = {step: tree(step) for step in STEPS}


@contextlib.contextmanager
def saving(folder: Path, keep: int = 3) -> Iterator[checkpoints.Saver]:
    """A saver that goes on from what is in the folder."""
    found = checkpoints.newest(folder, lambda text: None)
    best = checkpoints.Best(**found.meta["best"]) if found else checkpoints.Best()
    with contextlib.closing(checkpoints.Saver(folder, keep, best)) as saver:
        yield saver


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with saving(folder) as saver:
        for step in STEPS:
            saver.save(step, TREES[step], {"data": "d"}, -step)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return processes.fresh(saved, tmp_path / "checkpoints")


def restored_step(folder: Path) -> tuple[int, list[str]]:
    """The step of the newest whole checkpoint, whose bits are checked here, and what was said of others."""
    said: list[str] = []
    found = checkpoints.newest(folder, said.append)
    assert found is not None
    checkpoints.set_aside(folder, after=found.step)
    assert digests.fingerprint(found.tree) == digests.fingerprint(TREES[found.step])
    assert all("\n" not in line for line in said)
    return found.step, said


def test_round_trip(saved: Path) -> None:
    assert files.numbered(saved) == list(STEPS)
    for step in STEPS:
        found = checkpoints.restore(saved, step)
        assert (found.step, found.meta["data"], found.meta["score"]) == (step, "d", -step)
        for (path, old), (other, new) in zip(
            digests.leaves(TREES[step]), digests.leaves(found.tree), strict=True
        ):
            assert (path, old.dtype, old.shape) == (other, new.dtype, new.shape)
            assert old.tobytes() == new.tobytes(), path


def test_digest_knows_dtype_shape_and_bits() -> None:
    arrays = [
        np.zeros(4, np.float32),
        np.zeros(4, np.int32),
        np.zeros((2, 2), np.float32),
        np.float32([0, 0, 0, -0.0]),
        np.zeros(2, np.float64),
    ]
    assert len({digests.digest(array) for array in arrays}) == len(arrays)
    assert digests.digest(arrays[0]) == digests.digest(arrays[0].astype(">f4"))
    assert digests.digest(np.eye(3)[:, ::-1]) == digests.digest(np.eye(3)[:, ::-1].copy())


def test_fingerprint_does_not_depend_on_the_order_in_which_a_tree_was_made() -> None:
    one, two, three = (np.float32([number]) for number in (1, 2, 3))
    trees = [{"b": {"d": one, "c": two}, "a": three}, {"a": three, "b": {"c": two, "d": one}}]
    assert [[path for path, _ in digests.leaves(tree)] for tree in trees] == [["a", "b/c", "b/d"]] * 2
    assert digests.fingerprint(trees[0]) == digests.fingerprint(trees[1])
    assert digests.fingerprint(trees[0]) != digests.fingerprint({"a": one, "b": {"c": two, "d": three}})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(processes.DAMAGES),
    numbers=st.tuples(*[st.integers(0, 10**9)] * 3),
    step=st.sampled_from((21, 21, 14)),
)
def test_damage_anywhere_is_found_or_harmless(
    saved: Path, tmp_path: Path, kind: str, numbers: tuple[int, int, int], step: int
) -> None:
    folder = processes.fresh(saved, tmp_path / "checkpoints")
    what = processes.damage(folder / str(step), kind, numbers)
    found, said = restored_step(folder)
    assert (found, len(said)) in [(21, 0), (14, 1)], what
    if said:
        assert said[0].startswith(f"skipped {folder / '21'}: expected a whole checkpoint, found: ")
        assert (tmp_path / "checkpoints.damaged" / "21").is_dir()


@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_one_flipped_bit_in_each_file_of_a_state_is_found(
    copy: Path, tmp_path: Path, position: float
) -> None:
    sealed = [p for p in (copy / "21" / "state").rglob("*") if p.is_file() and p.name != "commit_success.txt"]
    assert len(sealed) > 5
    for path in [*sealed, copy / "21" / "meta" / "metadata"]:
        old = path.read_bytes()
        new = bytearray(old)
        new[round(position * (len(old) - 1))] ^= 0x20
        path.write_bytes(new)
        with pytest.raises(RunError):
            checkpoints.restore(copy, 21)
        path.write_bytes(old)
    assert restored_step(copy) == (21, [])


def test_score_that_was_changed_is_found(copy: Path) -> None:
    path = copy / "21" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"score": -21', '"score": 9921', 1))
    assert restored_step(copy)[0] == 14


def test_checkpoint_under_another_step_is_found(copy: Path) -> None:
    (copy / "21").rename(copy / "28")
    assert restored_step(copy)[0] == 14


def test_whole_state_of_another_step_is_found(copy: Path, tmp_path: Path) -> None:
    """Its files are as they were sealed; its leaves are not those of this step."""
    (copy / "21" / "state").rename(tmp_path / "state")
    (copy / "14" / "state").rename(copy / "21" / "state")
    (tmp_path / "state").rename(copy / "14" / "state")
    found, said = restored_step(copy)
    assert (found, len(said)) == (7, 2)
    assert said[0].endswith("expected the bits that were saved, found others in count")


@pytest.mark.parametrize("name", ["28", "28.orbax-checkpoint-tmp", "0028", "²", "best", "28.tmp"])
@pytest.mark.parametrize("full", [False, True])
def test_folder_that_is_no_checkpoint(copy: Path, name: str, full: bool) -> None:
    (copy / name).mkdir()
    if full:
        processes.fresh(copy / "21" / "state", copy / name / "state")
    found, said = restored_step(copy)
    assert (found, len(said)) == (21, int(name == "28"))
    with saving(copy) as saver:
        saver.save(28, TREES[21], {}, 0)
        saver.wait()
        assert checkpoints.restore(copy, 28).step == 28
    assert not [*copy.glob("*orbax-checkpoint-tmp")]  # what a kill left is removed


def test_file_named_like_a_step(copy: Path) -> None:
    (copy / "28").write_text("")
    assert restored_step(copy)[0] == 21


def test_all_damaged_stops_and_deletes_nothing(copy: Path) -> None:
    for step, name in zip(STEPS, ("manifest.ocdbt", "_METADATA", "sha256.json"), strict=True):
        (copy / str(step) / "state" / name).write_bytes(b"")
    before, said = processes.content(copy.parent), list[str]()
    with pytest.raises(RunError, match="expected a whole checkpoint, found 3 damaged"):
        checkpoints.newest(copy, said.append)
    assert len(said) == 3
    assert processes.content(copy.parent) == before


def test_damaged_step_can_be_saved_again(copy: Path) -> None:
    (copy / "21" / "meta" / "metadata").unlink()
    assert restored_step(copy)[0] == 14
    with saving(copy) as saver:
        saver.save(21, TREES[21], {}, 0)
    assert restored_step(copy) == (21, [])


def test_reading_changes_nothing(copy: Path) -> None:
    (copy / "21" / "meta" / "metadata").unlink()
    (copy / "28.orbax-checkpoint-tmp").mkdir()
    before = processes.content(copy.parent)
    found, best = (read(copy, lambda text: None) for read in (checkpoints.newest, checkpoints.best))
    assert found is not None and best is not None
    assert (found.step, best.step) == (14, 7)
    assert processes.content(copy.parent) == before


def test_newest_and_best_are_kept_by_one_process_after_another(tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.9, 3: math.nan, 4: 0.3, 5: 0.9, 6: -math.inf}
    for step, score in scores.items():
        with saving(tmp_path / "checkpoints", keep=2) as saver:
            saver.save(step, TREES[7], {}, score)
            saver.wait()
            best = checkpoints.best(tmp_path / "checkpoints", pytest.fail)
            assert best is not None and best.step == min(step, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "5", "6"]


def test_step_that_is_not_after_the_newest_is_not_dropped_in_silence(copy: Path) -> None:
    with saving(copy) as saver, pytest.raises(FaultError, match="found a later checkpoint there"):
        saver.save(20, TREES[14], {}, 0)


def test_state_may_change_while_it_is_saved(tmp_path: Path) -> None:
    array = np.arange(3e6)
    with saving(tmp_path / "checkpoints") as saver:
        saver.save(1, {"a": array}, {}, 0)
        array[:] = 0
        saver.wait()
        assert (checkpoints.restore(tmp_path / "checkpoints", 1).tree["a"] == np.arange(3e6)).all()


def test_meta_may_change_while_it_is_saved(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": 0}]
    with saving(tmp_path / "checkpoints", keep=30) as saver:
        for step in range(1, 21):
            saver.save(step, {"a": np.arange(step)}, {"rows": rows}, 0)
            rows.append({"step": step})
        saver.wait()
        for step in range(1, 21):
            assert len(checkpoints.restore(tmp_path / "checkpoints", step).meta["rows"]) == step


def test_meta_is_plain_json(saved: Path) -> None:
    meta = json.loads((saved / "21" / "meta" / "metadata").read_text())
    assert meta["digests"] == {p: digests.digest(a) for p, a in digests.leaves(TREES[21])}
    assert meta["best"] == {"score": -7, "step": 7}
