"""How processes meet, with strangers at the door; `promises/test_together.py` has real processes."""

import socket
import threading

import pytest

from mmids_cnn.devices.meeting import Guest, Host, Met
from mmids_cnn.errors import DeviceError
from tests.support.processes import free_port

STRANGERS = (
    b"5\n",
    b"[1]\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff\xfe\n",
    b'{"process": 1, "processes": 2, "devices": 1, "x": 1}\n',
    b'{"process": 7, "processes": 2, "devices": 1}\n',
    b'{"process": 0, "processes": 2, "devices": 1}\n',
    b'{"process": "1", "processes": 2, "devices": 1}\n',
    b'{"end": [1, "all is over"]}\n',
)


def never(line: str, status: int) -> None:
    pytest.fail(f"{line} ({status})")


def call(port: int, said: bytes) -> socket.socket:
    """Somebody who comes and says something."""
    stranger = socket.create_connection(("localhost", port))
    stranger.sendall(said)
    return stranger


def test_strangers_are_not_counted_and_end_nothing() -> None:
    port, met = free_port(), []
    host = Host(("localhost", port), 2, 3, never)
    before = [call(port, said) for said in STRANGERS]
    waiting = threading.Thread(target=lambda: met.append(host.meet()))
    waiting.start()
    guest = Guest(("localhost", port), 1, 2, 2, never)
    got = guest.meet()
    waiting.join(10)
    assert met == [got] and got == Met(got.port, 2)
    host.begun()
    guest.begun()
    after = [call(port, said) for said in STRANGERS]
    late: list[tuple[str, int]] = []
    again = Guest(("localhost", port), 1, 2, 2, lambda line, status: late.append((line, status)))
    with pytest.raises(TypeError):  # `lost` does not return where a process runs
        again.meet()
    ((line, status),) = late
    assert status == 2 and line.startswith(
        "--process: expected one that is awaited, got 1 where all are there"
    )
    for end in (*before, *after, guest._wire, again._wire):
        end.close()


@pytest.mark.parametrize("answer", [b"220\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"{}\n", b"\xff\n"])
def test_somebody_else_listens_there(answer: bytes) -> None:
    with socket.create_server(("localhost", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(answer)

        threading.Thread(target=serve).start()
        with pytest.raises(DeviceError, match="found somebody who does not answer as it does"):
            Guest(listener.getsockname()[:2], 1, 2, 1, never)


@pytest.mark.parametrize("name", ["a..b", "a" * 70])
def test_a_name_that_no_host_can_have(name: str) -> None:
    with pytest.raises(
        DeviceError, match=f"--coordinator: expected process 0 at {name}:1 within 300 s, found"
    ):
        Guest((name, 1), 1, 2, 1, never)
