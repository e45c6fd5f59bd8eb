"""Checkpoints of a run: written by Orbax in the background, with a SHA-256 of each leaf to check on restore.

Orbax commits a step's folder by one rename, so a kill leaves whole checkpoints only. What it does not notice
is a changed bit in a data file. The seal of each file and the digest of each leaf are there for that: the
seal because Orbax reads on in the background after damage, the digests for all between file and array.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from mmids_cnn.errors import FaultError, RunError
from mmids_cnn.storage import digests, files, seal
from mmids_cnn.storage.digests import Tree

# Orbax's way with several processes is that all of them save; here the first one does, alone.
_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class Restored(NamedTuple):
    """A checkpoint whose every leaf has the digest it was saved with."""

    step: int
    tree: Tree
    meta: dict[str, Any]


class Best(NamedTuple):
    """The highest score of a run so far, and the step that had it."""

    score: float = -math.inf
    step: int = -1


def restore(folder: Path, step: int) -> Restored:
    """Restores one checkpoint of a folder.

    Raises:
      RunError: it is not there, not whole, or not what was saved; the message says which.
    """
    where = folder / str(step)
    try:
        seal.check_files(where / "state")
        with ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=_ALONE) as reader:
            meta = dict(reader.restore((where / "meta").absolute()))
        if meta.pop("self") != files.digest_of_json(meta) or meta["step"] != step:
            raise ValueError("another content of meta than was saved")
        with ocp.StandardCheckpointer(multiprocessing_options=_ALONE) as reader:
            tree = reader.restore((where / "state").absolute())
        saved = meta["digests"]
        found = {path: digests.digest(array) for path, array in digests.leaves(tree)}
    except Exception as error:  # a damaged checkpoint makes Orbax raise almost anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{where}: expected a whole checkpoint, found: {reason}") from error
    wrong = sorted(k for k in saved.keys() | found.keys() if saved.get(k) != found.get(k))
    if wrong:
        raise RunError(f"{where}: expected the bits that were saved, found others in {wrong[0]}")
    return Restored(step, tree, meta)


def whole(folder: Path, warn: Callable[[str], None]) -> Iterator[Restored]:
    """The checkpoints of a folder that are whole, the newest first; `warn` is told why another is skipped."""
    for step in reversed(files.numbered(folder)):
        try:
            yield restore(folder, step)
        except RunError as error:
            warn(f"skipped {error}")


def newest(folder: Path, warn: Callable[[str], None]) -> Restored | None:
    """The newest checkpoint that is whole, or None if there is none at all; nothing is changed.

    Raises:
      RunError: there are checkpoints, and all are damaged.
    """
    found = next(whole(folder, warn), None)
    if found is None and files.numbered(folder):
        raise RunError(
            f"{folder}: expected a whole checkpoint, found "
            f"{len(files.numbered(folder))} damaged; put a copy back, or "
            "start again with another --workdir"
        )
    return found


def best(folder: Path, warn: Callable[[str], None]) -> Restored | None:
    """The whole checkpoint of the highest score, of equals the first; None if there is none."""

    def key(found: Restored) -> tuple[float, int]:
        score = found.meta["score"]
        return (-math.inf if math.isnan(score) else score, -found.step)

    return max(whole(folder, warn), key=key, default=None)


def set_aside(folder: Path, after: int) -> None:
    """Moves checkpoints after a step, which were skipped, away: to be saved again, and looked at still."""
    for step in files.numbered(folder):
        if step > after:
            aside = folder.with_name("checkpoints.damaged") / str(step)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(step)).rename(aside)


class Saver:
    """Saves the checkpoints of a run in the background; keeps the newest `keep` and the one of `best`.

    Saving copies the state and returns; errors of the writing thread surface at the next `save`, `wait` or
    `close`.
    """

    def __init__(self, folder: Path, keep: int = 1, best: Best = Best()) -> None:  # noqa: B008
        self._folder, self._keep, self.best = folder, keep, best
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add("state", ocp.args.StandardSave, seal.SealedHandler())
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=True,
                create=False,
                multiprocessing_options=_ALONE,
            ),
            handler_registry=handlers,
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question which checkpoints stay.

        Its own policy for the best forgets the scores of an earlier process, so the best one is written into
        each checkpoint's meta.
        """
        kept = {info.step for info in checkpoints[-self._keep :]} | {self.best.step}
        return [info.step in kept for info in checkpoints]

    def save(self, step: int, tree: Tree, meta: Mapping[str, Any], score: float) -> None:
        """Starts to save a state after `step` steps; `score` decides which one is the best.

        A checkpoint of that step is replaced, and is not there for a moment.
        """
        tree = jax.device_get(tree)  # all at once; Orbax copies it before it returns, as its memory is reused
        if score > self.best.score:
            self.best = Best(score, step)
        content = {
            "step": step,
            "score": score,
            "best": self.best._asdict(),
            "digests": {path: digests.digest(array) for path, array in digests.leaves(tree)},
            **meta,
        }
        content = json.loads(json.dumps(content))  # written in the background, while the caller's lists grow
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            meta=ocp.args.JsonSave({**content, "self": files.digest_of_json(content)}),
        )
        with self._faults():
            if step in self._manager.all_steps():
                self._manager.delete(step)
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
