"""What has been trained of a sweep so far: metrics and states of members, in files that are whole or absent.

A population leaves a JSON file with the rows of its members and, where training can go on, an `.npz` file
with their states, whose SHA-256 the JSON file holds. Rungs and resumed sweeps look members up one by one:
which population they were part of before does not matter.
"""

import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmids_cnn.errors import RunError
from mmids_cnn.populations.population import Outcome, Progress, State
from mmids_cnn.storage import digests, files

BASE = -1  # the trial number of the experiment's own setting, where it is trained beside trials


def trial_name(trial: int) -> str:
    """What people call a trial."""
    return "base" if trial == BASE else str(trial)


class Member(NamedTuple):
    """One training of a sweep."""

    trial: int
    seed: int

    @property
    def name(self) -> str:
        """What files about it are called."""
        return f"{'base' if self.trial == BASE else f'trial{self.trial}'}-seed{self.seed}"


class Entry(NamedTuple):
    """What is known of a member.

    Attributes:
      step, epoch: how far it was trained.
      rows: its metrics.
      diverged: the step that was not finite, or None.
      fingerprint: SHA-256 over its parameters.
      state: file of states and position in it; None where there is none.
      state_digest: what that file's content must have.
    """

    step: int
    epoch: float
    rows: list[dict[str, Any]]
    diverged: int | None
    fingerprint: str
    state: tuple[Path, int] | None
    state_digest: str

    def reached(self, epochs: int) -> bool:
        """Whether there is nothing left to train up to that epoch."""
        return self.diverged is not None or (bool(self.rows) and self.rows[-1]["epoch"] >= epochs)


class Ledger:
    """The members trained in one folder.

    Args:
      folder: made if it is not there.
      data: the fingerprint of the data that members are trained on.
      warn: told of a file that is damaged or about other data; its members are trained again.
    """

    def __init__(self, folder: Path, data: str, warn: Callable[[str], None]) -> None:
        self._folder, self._data, self._warn = folder, data, warn
        self._entries: dict[Member, Entry] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.json")):
            try:
                self._read(path)
            except (RunError, ValueError, KeyError, TypeError) as error:
                warn(f"skipped {path}, which cannot be used ({type(error).__name__}: {error})")

    def entry(self, member: Member) -> Entry | None:
        """What is known of a member."""
        return self._entries.get(member)

    def known(self, member: Member) -> Entry:
        """What is known of a member that has been trained."""
        return self._entries[member]

    def reached(self, member: Member, epochs: int) -> bool:
        """Whether a member has been trained up to that epoch."""
        entry = self._entries.get(member)
        return entry is not None and entry.reached(epochs)

    def adopt(self, trial: int, seeds: Sequence[Mapping[str, Any]]) -> None:
        """Takes over a finished trial, where the files about its members are lost.

        Args:
          trial: its number.
          seeds: for each member `seed`, `rows`, `diverged` and `fingerprint`.
        """
        for one in seeds:
            member, rows = Member(trial, one["seed"]), one["rows"]
            if member not in self._entries:
                step, epoch = (rows[-1]["step"], rows[-1]["epoch"]) if rows else (0, 0.0)
                self._entries[member] = Entry(
                    step, epoch, rows, one["diverged"], one["fingerprint"], None, ""
                )

    def record(self, name: str, members: Sequence[Member], outcome: Outcome, epoch: float) -> None:
        """Writes down what a population has come to; `name` is replaced, should it be there already."""
        progress, state, digest = outcome.progress, "", ""
        if progress.state is not None:
            state, digest = f"{name}.{progress.step}.npz", digests.fingerprint(progress.state)
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **progress.state)
            files.write_bytes(self._folder / state, buffer.getvalue())
        each = zip(members, progress.rows, progress.diverged, outcome.fingerprints, strict=False)
        content: dict[str, Any] = {
            "step": progress.step,
            "epoch": epoch,
            "state": state,
            "state_digest": digest,
            "device": outcome.device,
            "data": outcome.data,
            "seconds": outcome.seconds,
            "ended": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
            "members": [
                {**member._asdict(), "rows": rows, "diverged": diverged, "fingerprint": fingerprint}
                for member, rows, diverged, fingerprint in each
            ],
        }
        files.write_sealed(self._folder / f"{name}.json", content)
        self._read(self._folder / f"{name}.json")
        for old in self._folder.glob(f"{name}.*.npz"):
            if old.name != state:
                old.unlink()

    def progress(self, members: Sequence[Member]) -> Progress:
        """Where these members can go on together: from the step they all are at, else from the start."""
        entries = [self._entries.get(member) for member in members]
        found = [entry for entry in entries if entry is not None and entry.state is not None]
        if len(found) < len(members) or len({entry.step for entry in found}) != 1:
            return Progress()
        once = {entry.state_digest: entry for entry in found}  # a file is read once for all its members
        arrays = {digest: self._whole(entry) for digest, entry in once.items()}
        whole = {digest: one for digest, one in arrays.items() if one is not None}
        if len(whole) < len(arrays):
            return Progress()
        states = [_member(whole, entry) for entry in found]
        return Progress(
            found[0].step,
            tuple(tuple(entry.rows) for entry in found),
            tuple(entry.diverged for entry in found),
            {path: np.stack([state[path] for state in states]) for path in states[0]},
        )

    def states(self, members: Sequence[Member]) -> list[State]:
        """The states of members that were kept.

        Raises:
          RunError: one is not there, or damaged.
        """
        states = []
        for member in members:
            entry = self._entries.get(member)
            if entry is None or entry.state is None:
                raise RunError(f"{self._folder}: expected the parameters of {member.name}, found none")
            states.append(_member({entry.state_digest: _arrays(entry)}, entry))
        return states

    def forget_without_state(self) -> None:
        """Forgets members whose state was kept and is damaged by now: they are to be trained again."""
        for entry in {entry.state_digest: entry for entry in self._entries.values() if entry.state}.values():
            if self._whole(entry) is None:
                for member in [m for m, e in self._entries.items() if e.state_digest == entry.state_digest]:
                    del self._entries[member]

    def drop_states(self) -> None:
        """Removes the states: nothing will go on from them."""
        for path in self._folder.glob("*.npz"):
            path.unlink()

    def _whole(self, entry: Entry) -> State | None:
        """What `_arrays` reads; None, and a warning, where the file is damaged."""
        try:
            return _arrays(entry)
        except RunError as error:
            self._warn(f"skipped {error}; its members are trained from the start")
            return None

    def _read(self, path: Path) -> None:
        content = files.read_sealed(path)
        if content["data"] != self._data:
            raise ValueError(f"trained on other data, of fingerprint {content['data'][:16]}")
        for index, one in enumerate(content["members"]):
            member = Member(one["trial"], one["seed"])
            entry = Entry(
                content["step"],
                content["epoch"],
                one["rows"],
                one["diverged"],
                one["fingerprint"],
                (self._folder / content["state"], index) if content["state"] else None,
                content["state_digest"],
            )
            known = self._entries.get(member)
            if known is None or known.step <= entry.step:
                self._entries[member] = entry


def _arrays(entry: Entry) -> State:
    """The states of all members of the file that this one's is in; raises `RunError` if it is damaged."""
    assert entry.state is not None
    path = entry.state[0]
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if digests.fingerprint(arrays) != entry.state_digest:
            raise ValueError("its bits are not those that were saved")
    except Exception as error:  # a damaged archive makes zipfile and NumPy raise many kinds
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise RunError(f"{path}: {reason}") from error
    return arrays


def _member(arrays: Mapping[str, State], entry: Entry) -> State:
    assert entry.state is not None
    _, index = entry.state
    return {name: array[index] for name, array in arrays[entry.state_digest].items()}
