"""The record of members: read back as it was written, or passed over and trained again; never in part."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmids_cnn.populations.ledger import BASE, Ledger, Member
from mmids_cnn.populations.population import Outcome, Progress
from mmids_cnn.storage import files

A, B, C = Member(0, 0), Member(1, 0), Member(BASE, 5)


def outcome(step: int, *marks: float, state: bool = True, diverged: int | None = None) -> Outcome:
    """What has come of a population after some steps, 8 to an epoch; a mark tells one member from another."""
    rows = tuple(({"step": step, "epoch": step / 8, "validation/accuracy": mark},) for mark in marks)
    arrays = {"params/bias": np.float32([[mark, step] for mark in marks]), "step": np.full(len(marks), step)}
    progress = Progress(step, rows, (diverged,) * len(marks), arrays if state else None)
    return Outcome(progress, tuple(f"{mark} at {step}" for mark in marks), {"train": 1.0}, "cpu", "data")


def opened(folder: Path) -> tuple[Ledger, list[str]]:
    """A ledger as the next process has it, and what it warns of."""
    warnings: list[str] = []
    return Ledger(folder, "data", warnings.append), warnings


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npz"))


def biases(progress: Progress) -> Any:
    return None if progress.state is None else progress.state["params/bias"].tolist()


def test_members_are_read_back_whatever_population_they_were_in(tmp_path: Path) -> None:
    opened(tmp_path)[0].record("ab", (A, B), outcome(8, 0.25, 0.5), 1.0)
    opened(tmp_path)[0].record("c", (C,), outcome(8, 0.75), 1.0)
    again, warnings = opened(tmp_path)
    assert warnings == []
    entry = again.known(B)
    assert (entry.step, entry.epoch, entry.fingerprint, entry.diverged) == (8, 1.0, "0.5 at 8", None)
    together = again.progress((C, B))
    assert (together.step, together.diverged) == (8, (None, None))
    assert [rows[-1]["validation/accuracy"] for rows in together.rows] == [0.75, 0.5]
    assert biases(together) == [[0.75, 8], [0.5, 8]]
    assert again.entry(Member(2, 0)) is None


def test_population_filled_up_with_its_last_member_is_recorded_once_each(tmp_path: Path) -> None:
    known, _ = opened(tmp_path)
    known.record("ab", (A, B), outcome(8, 0.25, 0.5, 0.5, 0.5), 1.0)
    assert len(json.loads((tmp_path / "ab.json").read_text())["members"]) == 2
    assert biases(known.progress((A, B, B))) == [[0.25, 8], [0.5, 8], [0.5, 8]]


@pytest.mark.parametrize("other", [16, None], ids=["at another step", "without a state"])
def test_members_that_are_not_at_one_step_start_anew(tmp_path: Path, other: int | None) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, 0.25), 1.0)
    known.record("b", (B,), outcome(other or 8, 0.5, state=other is not None), 1.0)
    assert known.progress((A, B)) == Progress()
    assert known.progress((A, C)) == Progress()
    assert known.progress((A,)).step == 8


def test_later_record_counts_and_of_one_step_the_newer(tmp_path: Path) -> None:
    known, _ = opened(tmp_path)
    known.record("first", (A, B), outcome(8, 0.25, 0.5, state=False), 1.0)
    known.record("second", (A,), outcome(8, 0.75), 1.0)
    assert known.known(A).fingerprint == "0.75 at 8"
    assert biases(known.progress((A,))) == [[0.75, 8]]
    known.record("third", (A,), outcome(4, 1.0), 0.5)
    assert [one.known(A).fingerprint for one in (known, opened(tmp_path)[0])] == ["0.75 at 8"] * 2


@pytest.mark.parametrize(("diverged", "epochs", "reached"), [(None, 1, True), (None, 2, False), (3, 9, True)])
def test_member_is_there_once_it_was_scored_or_diverged(
    tmp_path: Path, diverged: int | None, epochs: int, reached: bool
) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, 0.25, diverged=diverged), 1.5)
    assert known.reached(A, epochs) == reached
    assert not known.reached(B, 0)


def edited(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resealed(content: Any) -> None:
    content.pop("self")
    content["data"] = "other data"
    content["self"] = files.digest_of_json(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["members"][0]["rows"][0].update(epoch=2.0), "found other content"),
        (resealed, "trained on other data, of fingerprint other data"),
    ],
    ids=["edited", "other data"],
)
def test_record_that_is_not_what_was_saved_is_passed_over(
    tmp_path: Path, change: Callable[[Any], None], words: str
) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, 0.25), 1.0)
    known.record("b", (B,), outcome(8, 0.5), 1.0)
    edited(tmp_path / "a.json", change)
    again, (warning,) = opened(tmp_path)
    assert warning.startswith(f"skipped {tmp_path / 'a.json'}, which cannot be used (")
    assert words in warning
    assert (again.entry(A), again.known(B).step) == (None, 8)


def test_state_of_other_members_is_passed_over(tmp_path: Path) -> None:
    """Whole, of the right shapes, with the sums of its archive right: but other bits than were saved."""
    known, warnings = opened(tmp_path)
    known.record("ab", (A, B), outcome(8, 0.25, 0.5), 1.0)
    known.record("c", (C,), outcome(8, 0.75), 1.0)
    path = (tmp_path / "c.8.npz").replace(tmp_path / "ab.8.npz")
    assert known.progress((A, B)) == Progress()
    assert warnings == [
        f"skipped {path}: its bits are not those that were saved; its members are trained from the start"
    ]


def test_kill_between_state_and_record_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(4, 0.25), 0.5)
    assert states(tmp_path) == ["a.4.npz"]
    write = files.write_bytes

    def killed(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        known.record("a", (A,), outcome(8, 0.25), 1.0)
    monkeypatch.undo()
    again, warnings = opened(tmp_path)
    assert biases(again.progress((A,))) == [[0.25, 4]]
    again.record("a", (A,), outcome(8, 0.25), 1.0)
    assert states(tmp_path) == ["a.8.npz"]
    again.record("a", (A,), outcome(16, 0.25, state=False), 2.0)
    assert states(tmp_path) == []
    assert warnings == []


def test_states_are_dropped_and_records_stay(tmp_path: Path) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, 0.25), 1.0)
    known.drop_states()
    again, warnings = opened(tmp_path)
    assert (states(tmp_path), warnings) == ([], [])
    assert again.reached(A, 1)


def test_finished_trial_is_taken_over_where_its_files_are_lost(tmp_path: Path) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, 0.25), 1.0)
    rows = [{"step": 16, "epoch": 2.0}]
    known.adopt(0, [{"seed": 0, "rows": rows, "diverged": None, "fingerprint": "f"}])
    known.adopt(1, [{"seed": 0, "rows": [], "diverged": 3, "fingerprint": "g"}])
    assert known.known(A).fingerprint == "0.25 at 8"
    assert (known.known(B).step, known.known(B).diverged, known.reached(B, 9)) == (0, 3, True)
    assert known.progress((B,)) == Progress()
    assert A.name == "trial0-seed0" and C.name == "base-seed5"


def test_numbers_that_are_not_finite_are_read_back_as_none(tmp_path: Path) -> None:
    known, _ = opened(tmp_path)
    known.record("a", (A,), outcome(8, float("nan")), 1.0)
    assert known.known(A).rows == [{"step": 8, "epoch": 1.0, "validation/accuracy": None}]
