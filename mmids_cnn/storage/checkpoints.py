"""Checkpoints of a run: written by Orbax in the background, with a SHA-256 of each leaf to check on restore.

Orbax commits a step's folder by one rename, so a kill leaves whole checkpoints only. What it does not notice
is a changed bit in a data file; the digests, committed in the same folder, are there for that.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmids_cnn.errors import FaultError, RunError
from mmids_cnn.storage import files, seal

Tree = dict[str, Any]
"""Nested dicts with string keys, arrays at the leaves."""


class Restored(NamedTuple):
    """A checkpoint whose every leaf has the digest it was saved with."""

    step: int
    tree: Tree
    meta: dict[str, Any]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Leaves as NumPy arrays with their paths (`Dense_0/bias`), in the order of the paths."""
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, np.asarray(value)


def digest(array: np.ndarray) -> str:
    """SHA-256 over an array's dtype, shape and bytes (little-endian, row-major)."""
    array = np.asarray(array)
    header = f"{array.dtype.name} {array.shape} ".encode()
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    return hashlib.sha256(header + little.tobytes()).hexdigest()


def fingerprint(tree: Mapping[str, Any]) -> str:
    """SHA-256 over all leaves, in the order of their paths; equal trees, bit for bit, have equal ones."""
    lines = "".join(f"{path} {digest(array)}\n" for path, array in leaves(tree))
    return hashlib.sha256(lines.encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run folder.

    Keeps the newest `keep` and the one of the highest score. Saving copies the state and returns; errors of
    the writing thread surface at the next `save`, `wait` or `close`.
    """

    def __init__(self, folder: Path, keep: int = 1, *, read_only: bool = False) -> None:
        seal.hush_orbax()
        self._folder = folder
        self._damaged: list[int] = []
        self._keep = _Keep(keep)
        handlers, handler = ocp.handlers.DefaultCheckpointHandlerRegistry(), seal.SealedHandler()
        handlers.add("state", ocp.args.StandardSave, handler)
        handlers.add("state", ocp.args.StandardRestore, handler)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            handler_registry=handlers,
        )

    def save(self, step: int, tree: Tree, meta: Mapping[str, Any], score: float) -> None:
        """Starts to save a state after `step` steps; `score` decides which one is the best."""
        copy = jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)  # its memory is reused
        digests = {path: digest(array) for path, array in leaves(copy)}
        if score > self._keep.best_score:
            self._keep.best_score, self._keep.best_step = score, step
        best = {"score": self._keep.best_score, "step": self._keep.best_step}
        content = {"step": step, "score": score, "best": best, "digests": digests, **meta}
        content = json.loads(json.dumps(content))  # written in the background, while the caller's lists grow
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(copy),
            meta=ocp.args.JsonSave({**content, "self": files.digest_of_json(content)}),
        )
        with self._faults():
            if not self._manager.save(step, args=args):
                raise OSError(f"expected to save step {step}, found a later checkpoint there")

    def wait(self) -> None:
        """Returns when all that was given to `save` is on the disk."""
        with self._faults():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the writing thread."""
        with self._faults():
            self._manager.close()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Failures to write as one line; those of the writing thread come wrapped, as many kinds."""
        try:
            yield
        except Exception as error:
            what = f"saving to {self._folder} (the checkpoints before it are whole)"
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            cause = files.cause(error) or OSError(reason)
            raise FaultError(files.describe(what, cause)) from error

    def steps(self) -> list[int]:
        """Steps for which there is a folder, whole or not, ascending."""
        names = (path.name for path in self._folder.iterdir())
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def restore(self, step: int) -> Restored:
        """Restores one checkpoint.

        Raises:
          RunError: it is not there, not whole, or not what was saved; the message says which.
        """
        where = self._folder / str(step)
        try:
            seal.check_files(where / "state")
            restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            meta = dict(restored["meta"])
            if meta.pop("self") != files.digest_of_json(meta) or meta["step"] != step:
                raise ValueError("another content of meta than was saved")
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
            tree, digests = restored["state"], meta["digests"]
            found = {path: digest(array) for path, array in leaves(tree)}
        except Exception as error:  # a damaged checkpoint makes Orbax raise almost anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RunError(f"{where}: expected a whole checkpoint, found: {reason}") from error
        wrong = sorted(k for k in digests.keys() | found.keys() if digests.get(k) != found.get(k))
        if wrong:
            raise RunError(f"{where}: expected the bits that were saved, found others in {wrong[0]}")
        return Restored(step, tree, meta)

    def restore_newest(self, warn: Callable[[str], None]) -> Restored | None:
        """Restores the newest checkpoint that is whole; nothing is changed.

        Args:
          warn: told of each checkpoint that is skipped, and why.

        Returns:
          The checkpoint, or None if there is none at all.

        Raises:
          RunError: there are checkpoints, and all are damaged.
        """
        self._damaged = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step)
            except RunError as error:
                warn(f"skipped {error}")
                self._damaged.append(step)
                continue
            self._keep.best_score = restored.meta["best"]["score"]
            self._keep.best_step = restored.meta["best"]["step"]
            return restored
        if self._damaged:
            raise RunError(
                f"{self._folder}: expected a whole checkpoint, found {len(self._damaged)} damaged; put a "
                "copy back, or start again with another --workdir"
            )
        return None

    def restore_best(self, warn: Callable[[str], None]) -> Restored | None:
        """Restores the whole checkpoint of the highest score among those kept; None if there is none."""
        best = None
        for step in self.steps():
            try:
                restored = self.restore(step)
            except RunError as error:
                warn(f"skipped {error}")
                continue
            if best is None or restored.meta["score"] > best.meta["score"]:
                best = restored
        return best

    def set_aside(self) -> None:
        """Moves what `restore_newest` skipped away, so that it can be saved again and looked at still."""
        if not self._damaged:
            return
        aside = self._folder.with_name("checkpoints.damaged")
        aside.mkdir(exist_ok=True)
        for step in self._damaged:
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self._folder / str(step)).rename(aside / str(step))
        self._manager.reload()


class _Keep:
    """Which checkpoints stay: the newest `count` and the best.

    Orbax's own policy for the best forgets the scores of an earlier process, so the best one is written into
    each checkpoint's meta.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.best_score, self.best_step = -math.inf, -1

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = {info.step for info in checkpoints[-self._count :]}
        return [info.step in newest or info.step == self.best_step for info in checkpoints]
