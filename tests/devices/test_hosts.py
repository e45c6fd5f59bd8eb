"""How flags and clusters name the processes that train one model; `promises/test_together.py` runs some."""

import socket
import threading
from collections.abc import Callable

import numpy as np
import pytest

from mmids_cnn.devices import hosts, relay
from mmids_cnn.devices.hosts import Group
from mmids_cnn.errors import ConfigError, DeviceError


def test_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert hosts.group(None, None, None) is None
    assert hosts.group("here:1234", 1, 0) is None
    assert hosts.count() == 1 and hosts.leads()
    tree = {"a": np.ones(2)}
    assert hosts.same(tree) is tree
    hosts.tell((1, 2, 3))
    hosts.leave(hosts.End(0, ""))


@pytest.mark.parametrize("coordinator", ["host-1.example:65535", "10.0.0.1:80", "[fe80::1]:29500"])
def test_flags_name_the_group(coordinator: str) -> None:
    assert hosts.group(coordinator, 4, 3) == Group(coordinator, 4, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("here:1", None, None),
            "--processes and --process: expected with --coordinator, got none; give each",
        ),
        ((None, 2, 0), "--coordinator: expected with --processes and --process, got none; give each"),
        (("here", 2, 0), "--coordinator: expected HOST:PORT, where process 0 listens, got 'here'; change it"),
        (("here:0", 2, 0), "--coordinator: expected HOST:PORT, where process 0 listens"),
        (("here:65536", 2, 0), "--coordinator: expected HOST:PORT, where process 0 listens"),
        (("fe80::1:80", 2, 0), "--coordinator: expected HOST:PORT, where process 0 listens"),
        (("here:1", 0, 0), "--processes: expected a number of processes, 1 or more, got 0; change it"),
        (("here:1", 2, 2), "--process: expected an integer from 0 to 1, as --processes=2, got 2; change it"),
        (("here:1", 2, -1), "--process: expected an integer from 0 to 1, as --processes=2, got -1"),
    ],
)
def test_flags_that_do_not_fit(given: tuple[str | None, int | None, int | None], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hosts.group(*given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "a"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ],
)
def test_clusters(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hosts.group(None, None, None) == Group()


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script, whose tasks `srun` starts
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_a_task_of_its_own(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hosts.group(None, None, None) is None


def test_a_cluster_that_does_not_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # by a launcher other than Open MPI 4's
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(DeviceError, match="found several processes and no address; give each --coord"):
        hosts.found(hosts.group(None, None, None) or Group("", 1, 0))


@pytest.mark.parametrize(
    ("tasks", "devices"), [("2", (1,)), ("1(x2),3", (1,)), ("1(x2)", None), ("1", None), ("12", (1,))]
)
def test_processes_on_one_machine_take_an_accelerator_each(
    tasks: str, devices: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = {"NTASKS": "2", "PROCID": "1", "STEP_NODELIST": "a", "JOB_ID": "7", "LOCALID": "1"}
    for name, value in (slurm | {"STEP_TASKS_PER_NODE": tasks}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = hosts.found(hosts.group(None, None, None) or Group("", 1, 0))
    assert (found.processes, found.process, found.local_devices) == (2, 1, devices)


def served(answer: Callable[[socket.socket], None]) -> tuple[str, int]:
    """Where a server listens that answers one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        answer(connection)
        connection.close()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return "127.0.0.1", listener.getsockname()[1]


def test_a_relay_passes_all_on_and_tells_of_the_end() -> None:
    gone = threading.Event()

    def echo(connection: socket.socket) -> None:
        connection.sendall(connection.recv(5)[::-1])

    port = relay.start(served(echo), gone.set)
    with relay.connect(("127.0.0.1", port), 5) as near:
        near.sendall(b"hello")
        assert near.recv(5) == b"olleh"
        assert gone.wait(5)
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it is silent, and not closed
            near.recv(1)


def test_nobody_to_relay_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    with pytest.raises(OSError):
        relay.connect(address, 0.3)
