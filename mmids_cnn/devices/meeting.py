"""How processes meet before they begin with JAX: each comes to process 0 and says who it is.

JAX's coordinating service ends processes by `abort`, with a stack trace, where one comes that it does not
expect: one of another number, or one that was started a second time. So it listens at a port that only those
are told who have met here. Until all are with that service, a connection that closes says that its process
has ended.
"""

import contextlib
import json
import queue
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmids_cnn.devices import relay
from mmids_cnn.errors import ConfigError, DeviceError, FaultError

SECONDS = 300.0
"""In which all processes have to come."""

_ANSWER_SECONDS = 20.0  # in which process 0 says that it is there
_LATE_SECONDS = 10.0  # that process 0 has to say that not all have come

Lost = Callable[[str, int], None]
"""Ends this process with a line and an exit status; does not return."""


class Met(NamedTuple):
    """What all have agreed on."""

    port: int  # where JAX's coordinating service listens, on the host of process 0
    devices: int  # that each process makes of its CPU


class _Wire:
    """A connection on which messages pass, a line of JSON each."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        # A host that is cut off closes nothing: half a minute without an answer is an end, too.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **message: Any) -> None:
        """Sends a message, unless the other end is gone: `messages` tells of that."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What comes from the other end, until it closes; an empty message then.

        Raises:
          TimeoutError: nothing came for as long as `patience` says.
        """
        try:
            for line in self._connection.makefile("rb"):
                message = json.loads(line)
                if not isinstance(message, dict):
                    break
                yield message
        except TimeoutError:
            if self._connection.gettimeout() is not None:
                raise  # else the other end was cut off
        except (OSError, ValueError):  # broken, or somebody else's
            pass
        yield {}

    def patience(self, seconds: float | None) -> None:
        """How long to wait for a message; None is for ever."""
        self._connection.settimeout(seconds)

    def close(self) -> None:
        """Closes this end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Host:
    """Process 0, to whom the others come; later comers are refused as long as it lives.

    Args:
      address: host and port at which it listens.
      processes: how many have to come, itself counted.
      devices: that it would make of its CPU.
      lost: called where this process is to end, as another one did.

    Raises:
      DeviceError: the port is in use.
    """

    def __init__(self, address: tuple[str, int], processes: int, devices: int, lost: Lost) -> None:
        self._processes, self._devices, self._lost = processes, devices, lost
        self._there: dict[int, _Wire] = {}
        self._begun = set[int]()  # who is with JAX's service
        self._letters: queue.Queue[tuple[_Wire, dict[str, Any]]] = queue.Queue()
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            listener = socket.create_server(("", address[1]), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise DeviceError(
                f"--coordinator: expected a free port of this machine, where process 0 is to listen, found "
                f"{address[1]}: {error.strerror or error}; change it"
            ) from error
        relay.thread(self._let_in, listener)

    def meet(self) -> Met:
        """Waits until all are there, and tells them where to go.

        Raises:
          DeviceError: they did not come in time.
        """
        until = time.monotonic() + SECONDS
        while len(self._there) < self._processes - 1:
            try:
                self._read(*self._letters.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                late = DeviceError(
                    f"--coordinator: expected {self._processes} processes within {SECONDS:g} s, found "
                    f"{len(self._there) + 1}; start them all"
                )
                self.leave(late.exit_status, str(late))
                raise late from None
        with socket.create_server(("", 0)) as free:
            met = Met(free.getsockname()[1], self._devices)
        for wire in self._there.values():
            wire.send(**met._asdict())
        relay.thread(self._read_on)
        return met

    def begun(self) -> None:
        """All are with JAX's service, this process too."""
        for wire in self._there.values():
            wire.send(begun=True)

    def leave(self, status: int, line: str) -> None:
        """Tells all who have come that this process ends, and how."""
        for wire in list(self._there.values()):
            wire.send(end=[status, line])

    def _let_in(self, listener: socket.socket) -> None:
        while True:
            wire = _Wire(listener.accept()[0])
            wire.send(hello=True)
            relay.thread(self._listen, wire)

    def _listen(self, wire: _Wire) -> None:
        for message in wire.messages():
            self._letters.put((wire, message))
        wire.close()

    def _read_on(self) -> None:
        while True:
            self._read(*self._letters.get())

    def _read(self, wire: _Wire, message: dict[str, Any]) -> None:
        """Takes note of a message, or of the end of a connection."""
        process = next((number for number, one in self._there.items() if one is wire), None)
        if process is None:
            if message.keys() == _COMER and all(type(number) is int for number in message.values()):
                self._welcome(wire, **message)
        elif "begun" in message:
            self._begun.add(process)
        elif "end" in message:
            self._end_all(*message["end"])
        elif process not in self._begun:
            self._end_all(FaultError.exit_status, _ended(process))

    def _welcome(self, wire: _Wire, process: int, processes: int, devices: int) -> None:
        late = len(self._there) == self._processes - 1
        if not 0 < process < processes:  # none of ours
            return
        if processes != self._processes:
            line = (
                f"--processes: expected the same number for all, got {self._processes} for process 0 and "
                f"{processes} for process {process}; change it"
            )
            wire.send(end=[ConfigError.exit_status, line])
            if not late:
                self._end_all(ConfigError.exit_status, line)
        elif late or process in self._there:
            found = "all are there" if late else f"process {process} is there"
            line = (
                f"--process: expected one that is awaited, got {process} where {found} already; end that run"
            )
            wire.send(end=[ConfigError.exit_status, line])
        else:
            self._there[process] = wire
            self._devices = min(self._devices, devices)

    def _end_all(self, status: int, line: str) -> None:
        self.leave(status, line)
        self._lost(line, status)


class Guest:
    """Another process, which comes to process 0.

    Args:
      address: where process 0 listens.
      process: the number of this one.
      processes: how many there are.
      devices: that it would make of its CPU.
      lost: called where this process is to end, as another one did.

    Raises:
      DeviceError: nobody is there, or somebody else.
    """

    def __init__(
        self, address: tuple[str, int], process: int, processes: int, devices: int, lost: Lost
    ) -> None:
        self._lost, where = lost, f"{address[0]}:{address[1]}"
        try:
            self._wire = _Wire(relay.connect(address, SECONDS))
        except (OSError, UnicodeError) as error:  # of a name that no host can have
            reason = getattr(error, "strerror", None) or error
            raise DeviceError(
                f"--coordinator: expected process 0 at {where} within {SECONDS:g} s, found none ({reason}); "
                "start it, or change the address"
            ) from error
        self._wire.patience(_ANSWER_SECONDS)
        self._messages = self._wire.messages()
        with contextlib.suppress(TimeoutError):
            if "hello" in next(self._messages):
                self._wire.send(process=process, processes=processes, devices=devices)
                return
        self._wire.close()
        raise DeviceError(
            f"--coordinator: expected process 0 at {where}, found somebody who does not answer as it does; "
            "change the address"
        )

    def meet(self) -> Met:
        """Waits until all are there.

        Raises:
          DeviceError: they did not come in time.
        """
        self._wire.patience(SECONDS + _LATE_SECONDS)
        try:
            message = next(self._messages)
        except TimeoutError:
            raise DeviceError(
                f"--coordinator: expected word from process 0 within {SECONDS:g} s, found none; {_AGAIN}"
            ) from None
        self._require(message, "port")
        self._wire.patience(None)
        relay.thread(lambda: self._require(next(self._messages), "begun"))
        return Met(**message)

    def begun(self) -> None:
        """This process is with JAX's service."""
        self._wire.send(begun=True)

    def leave(self, status: int, line: str) -> None:
        """Tells process 0 that this one ends, and how."""
        self._wire.send(end=[status, line])

    def _require(self, message: dict[str, Any], expected: str) -> None:
        if "end" in message:
            status, line = message["end"]
            self._lost(line, status)
        elif expected not in message:
            self._lost(_ended(0), FaultError.exit_status)


_COMER = {"process", "processes", "devices"}  # what who comes says of itself; anything else is a stranger's
_AGAIN = "give all processes the same command again"


def _ended(process: int) -> str:
    return f"process {process}: expected that it begins with all others, found that it has ended; {_AGAIN}"
