"""SIGTERM and Ctrl-C: noticed at once, also while XLA works, and obeyed within seconds.

Python runs its signal handlers between bytecodes of the main thread, hence not while that thread compiles
or trains inside XLA. The C-level handler, though, writes to a wake-up pipe at once; a thread reads it. Where
there is nothing to save that thread ends the process itself; where there is, it gives the main thread a
moment to save.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

from mmids_cnn.errors import UserError

_GRACE_SECONDS = 4.0  # to finish a piece of training and save it; "within 5 seconds" is what is promised

_watched = False
_requested: int | None = None
_graceful = threading.Event()
_clean_up: list[Callable[[], None]] = []


class InterruptedRunError(UserError):
    """The process was asked to stop, and has saved what there was to save."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {what}")
        self.exit_status = 128 + number  # as shells report it: 130 for SIGINT, 143 for SIGTERM


def watch() -> None:
    """Starts to watch for SIGTERM and SIGINT; to be called once, from the main thread."""
    global _watched
    _watched = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_watch, args=(reader,), name="interrupt", daemon=True).start()


def watching() -> bool:
    """Whether `watch` has been called: a library's user keeps his own way with signals."""
    return _watched


def requested() -> int | None:
    """The signal that asked to stop, or None. Who polls this has called `defer` before."""
    return _requested


def defer(clean_up: Callable[[], None] = lambda: None) -> None:
    """From now on there is something to save: the main thread polls `requested`, and stops by itself.

    Args:
      clean_up: called before the process is ended for it, should it not stop in time.
    """
    _clean_up[:] = [clean_up]
    _graceful.set()


def _watch(reader: int) -> None:
    global _requested
    while True:
        number = os.read(reader, 1)[0]
        if number not in (signal.SIGTERM, signal.SIGINT):
            continue
        if _requested is not None:
            _end(number, "at once, at the second signal; the last checkpoint is whole")
        if not _graceful.is_set():
            _end(number, "nothing was left to save; give the same command again")
        _requested = number
        late = f"not done after {_GRACE_SECONDS:g} s; give the same command to go on from the last checkpoint"
        timer = threading.Timer(_GRACE_SECONDS, _end, (number, late))
        timer.daemon = True
        timer.start()


def _end(number: int, what: str) -> None:
    for clean_up in _clean_up:
        clean_up()
    error = InterruptedRunError(number, what)
    sys.stdout.flush()
    print(error, file=sys.stderr, flush=True)
    os._exit(error.exit_status)
