"""SIGTERM and Ctrl-C: noticed at once, also while XLA works, and obeyed within seconds.

Python runs its signal handlers between bytecodes of the main thread, hence not while that thread compiles
or trains inside XLA. The C-level handler, though, writes to a wake-up pipe at once; a thread reads it. Where
there is nothing to save that thread ends the process itself; where there is, it gives the main thread a
moment to save.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from mmids_cnn.errors import UserError

_GRACE_SECONDS = 4.0  # to finish a piece of training and save it; "within 5 seconds" is what is promised
_SAY_SECONDS = 0.3
_TWICE_SECONDS = 0.1  # GNU timeout sends a signal to its child and then to all of its group: that is one
_LAST_SECONDS = 2.0  # to tell other processes

_THREAD = "interrupt"
_requested: int | None = None
_grace = _GRACE_SECONDS
_last_words: Callable[["InterruptedRunError"], None] | None = None
_graceful = threading.Event()


class InterruptedRunError(UserError):
    """The process was asked to stop, and has saved what there was to save."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {what}")
        self.exit_status = 128 + number  # as shells report it: 130 for SIGINT, 143 for SIGTERM


def watch() -> None:
    """Starts to watch for SIGTERM and SIGINT; to be called from the main thread, as early as can be."""
    if watching():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_watch, args=(reader,), name=_THREAD, daemon=True).start()


def watching() -> bool:
    """Whether `watch` has been called: a library's user keeps his own way with signals."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def requested() -> int | None:
    """The signal that asked to stop, or None. Who polls this has called `defer` before."""
    return _requested


def defer(seconds: float = _GRACE_SECONDS) -> None:
    """From now on there is something to save: the main thread polls `requested`, and stops by itself.

    Args:
      seconds: that it is given to do so.
    """
    global _grace
    _grace = seconds
    _graceful.set()


def last_words(say: Callable[[InterruptedRunError], None]) -> None:
    """What else is to be told before a signal ends this process at once."""
    global _last_words
    _last_words = say


def ignore() -> None:
    """From now on the process ends by itself, with the status it has: what is left is Python's own end.

    Python gives signals that have a handler back to the system while it ends, which would end the process by
    the signal; those that are ignored it leaves so.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _watch(reader: int) -> None:
    global _requested
    first = 0.0
    while True:
        number = os.read(reader, 1)[0]
        if number not in (signal.SIGTERM, signal.SIGINT):
            continue
        if _requested is not None:
            if time.monotonic() - first < _TWICE_SECONDS:
                continue
            _end(number, "at once, at the second signal; the last checkpoint is whole")
        if not _graceful.is_set():
            _end(number, "nothing was left to save; give the same command again")
        _requested, first = number, time.monotonic()
        late = f"not done after {_grace:g} s; give the same command to go on from the last checkpoint"
        timer = threading.Timer(_grace, _end, (number, late))
        timer.daemon = True
        timer.start()


def _end(number: int, what: str) -> None:
    error = InterruptedRunError(number, what)
    # In threads, because writing waits for ever where nobody reads on: a full pipe, a terminal after Ctrl-S.
    seconds: dict[Callable[[InterruptedRunError], None], float] = {
        _free_terminal: _SAY_SECONDS,
        _say: _SAY_SECONDS,
    }
    if _last_words:
        seconds[_last_words] = _LAST_SECONDS
    speakers = {threading.Thread(target=say, args=(error,), daemon=True): s for say, s in seconds.items()}
    for speaker in speakers:
        speaker.start()
    for speaker, most in speakers.items():
        speaker.join(most)
    os._exit(error.exit_status)


def _free_terminal(error: InterruptedRunError) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody is there to read it
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\n")  # a bar that was being drawn has hidden the cursor
        sys.stdout.flush()


def _say(error: InterruptedRunError) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(error, file=sys.stderr, flush=True)
