"""Whether the processes that train one model are all there, and the end of all of them where one is not.

Each process tells every half second that it is there, whether it was asked to stop, and whether it has to
end. Process 0 looks at all others, which look at process 0; a process that was not heard of for `SILENCE`
seconds is given up, and the others end.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

SILENCE = 20.0
"""Seconds after which a process that was not heard of is given up."""

_BEAT = 0.5  # seconds between two signs of life
_LEAVING = 2.0  # seconds in which the others have to notice that process 0 ends


class End(NamedTuple):
    """How process 0 ended: its exit status, and what it said of it."""

    status: int
    line: str


class Store(Protocol):
    """Names and values that all processes see."""

    def put(self, name: str, value: Any) -> None:
        """Puts a value where all processes find it."""

    def folder(self, name: str) -> dict[str, Any]:
        """All values whose names begin with `name/`, by what follows."""


class Watch:
    """What a process knows of the others, and they of it.

    Args:
      process: the number of this one.
      processes: how many there are.
      requested: the signal that asked this process to stop, or None; process 0 is sent the same one.
      lost: ends this process, with a line and an exit status; called in another thread, does not return.
    """

    def __init__(
        self,
        process: int,
        processes: int,
        requested: Callable[[], int | None],
        lost: Callable[[str, int], None],
    ) -> None:
        self.end: End | None = None
        """How process 0 ended, once that is known."""
        self._process, self._processes = process, processes
        self._requested, self._lost = requested, lost
        self._store: Store  # from `start` on
        self._count, self._lock = 0, threading.Lock()  # of signs of life
        self._failed: End | None = None  # why this process has to end, for process 0 to know
        self._leaving = False
        self._heard: dict[int, tuple[int, float]] = {}  # the last beat of each, and when it was new
        self._know_end = set[int]()  # who knows that process 0 has ended
        self._stopped_by: int | None = None

    def start(self, store: Store) -> None:
        """Tells and looks from now on, in threads of its own."""
        self._store = store
        for work in (self._beat, self._look):
            threading.Thread(target=work, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Ends nothing any more."""
        self._leaving = True

    def gone(self) -> None:
        """Process 0 has closed a connection: it has ended, perhaps after it said so."""
        time.sleep(2 * _BEAT)
        self._give_up(0, "its connection is closed")

    def note_end(self, end: End) -> None:
        """Process 0 has told this process how it ended."""
        self.end = end
        with contextlib.suppress(Exception):  # it knows by the other thread, and has gone
            self._say_alive()

    def end_all(self, end: End, tell: Callable[[], None]) -> None:
        """Process 0 says how it ended, by `tell` to who waits for an order; the others have time to know."""
        self._leaving = True
        self._store.put("end/how", end)
        tell()
        until = time.monotonic() + _LEAVING
        while len(self._know_end) < self._processes - 1 and time.monotonic() < until:
            self._read()
            time.sleep(_BEAT / 25)

    def fail(self, end: End) -> None:
        """This process has to end: process 0 is given time to hear why."""
        if self.end is None and end.status:
            self._failed = end
            time.sleep(4 * _BEAT)

    def _beat(self) -> None:
        """Tells every half second that this process is there, and whether it was asked to stop."""
        while True:
            known = self.end is not None
            with contextlib.suppress(Exception):
                self._say_alive()
                self._read()
            time.sleep(_BEAT)
            if known and not self._leaving:
                # Unless it waits for an order, there is nothing that this process will hear it by.
                time.sleep(4 * _BEAT)
                self._give_up(0, "it has ended")

    def _say_alive(self) -> None:
        with self._lock:
            self._count += 1
            state = [self._count, self._requested(), self._failed, self.end is not None]
            self._store.put(f"alive/{self._process}", state)

    def _read(self) -> None:
        """Takes note of what others have put there."""
        if self._process:
            for how in self._store.folder("end").values():
                self.end = End(*how)
        for name, (count, signal, failed, known) in self._store.folder("alive").items():
            process = int(name)
            if self._heard.get(process, (0, 0.0))[0] != count:
                self._heard[process] = count, time.monotonic()
            self._know_end |= {process} if known else set()
            if self._process or not process or self._leaving:
                continue
            if failed:
                status, line = failed
                self._store.put("end/how", [status, f"process {process}: {line}"])
                time.sleep(2 * _BEAT)
                self._lost(f"process {process}: {line}", status)
            elif signal and self._stopped_by is None:
                self._stopped_by = signal
                os.kill(os.getpid(), signal)

    def _look(self) -> None:
        """Ends this process where another one is not heard of any more."""
        others = [0] if self._process else range(1, self._processes)
        began = last = time.monotonic()
        while not self._leaving:
            time.sleep(_BEAT)
            now = time.monotonic()
            if now - last > 10 * _BEAT:  # this process itself stood still, and knows nothing of the others
                began = now
            last = now
            for process in others:
                if now - max(began, self._heard.get(process, (0, 0.0))[1]) > SILENCE:
                    self._give_up(process, f"nothing was heard of it for {SILENCE:g} s")

    def _give_up(self, process: int, why: str) -> None:
        if self._leaving:
            return
        if self.end:
            self._lost(self.end.line, self.end.status)
        if self._process == 0:
            with contextlib.suppress(Exception):
                self._store.put("end/how", [1, f"process {process} was lost"])
                time.sleep(2 * _BEAT)
        self._lost(
            f"process {process}: expected that it goes on, found that {why}; the last checkpoint is whole: "
            "give all processes the same command again to go on from there",
            1,
        )
