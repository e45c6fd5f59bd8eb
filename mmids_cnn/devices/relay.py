"""A relay for the connections of this process to another machine, which tells when that end is gone.

JAX ends a process by `abort`, with a stack trace, where its connection to the coordinating process breaks. It
is given the address of a relay instead, whose own connection stays open: what to do is then for us to say.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

_CHUNK = 2**16  # bytes


def connect(address: tuple[str, int], seconds: float) -> socket.socket:
    """A connection to somebody who may yet be starting.

    Raises:
      OSError: nobody has answered within so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def start(address: tuple[str, int], gone: Callable[[], None]) -> int:
    """Starts to relay, in threads of its own, and returns the port on 127.0.0.1 at which it listens.

    Args:
      address: host and port to which each connection is relayed.
      gone: called when that end closes or breaks a connection; ours is not closed then.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = connect(address, 5)
            except OSError:
                gone()
                continue
            far.settimeout(None)
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread(_copy, near, far, lambda far=far: far.close())
            thread(_copy, far, near, gone)

    thread(accept)
    return int(listener.getsockname()[1])


def _copy(source: socket.socket, sink: socket.socket, end: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    end()


def thread(target: Callable[..., object], *arguments: object) -> None:
    """Starts what waits on connections for as long as the process lives."""
    threading.Thread(target=target, args=arguments, name="relay", daemon=True).start()
