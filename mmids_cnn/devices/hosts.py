"""Several processes, on one machine or many, that train one model: how they meet, and who tells what to whom.

Process 0 leads: it alone decides, prints and writes, and tells the others step by step what to compute with
it. All that passes between them but arrays goes through the store of names and values that JAX's coordinating
service keeps, in process 0. Each process tells every half second that it is there; where one has not been
heard of for `SILENCE` seconds the others end. Nothing here imports JAX before `join`.
"""

import atexit
import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmids_cnn.devices import relay
from mmids_cnn.errors import ConfigError, DeviceError

SILENCE = 20.0
"""Seconds after which a process that was not heard of is given up."""

_MEETING = 300.0  # seconds in which all processes have to come
_BEAT = 0.5  # seconds between two signs of life
_LEAVING = 2.0  # seconds in which the others have to notice that process 0 ends
_ALONE = {"SLURM_NTASKS": "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}


class Group(NamedTuple):
    """The processes that train one model, and which of them this one is; '' and -1 where JAX finds out."""

    coordinator: str = ""  # where process 0 listens, 'host:port'
    processes: int = -1
    process: int = -1


class End(NamedTuple):
    """How process 0 ended: its exit status, and what it said of it."""

    status: int
    line: str


def group(coordinator: str | None, processes: int | None, process: int | None) -> Group | None:
    """The group that flags ask for, or a cluster has started; None for a process of its own.

    Raises:
      ConfigError: the flags do not fit together.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if coordinator is None or processes is None or process is None:
        if len(missing) < len(given):
            raise ConfigError(
                f"{' and '.join(missing)}: expected with "
                f"{' and '.join(f'--{name}' for name in given if f'--{name}' not in missing)}, got none; "
                "give each process --coordinator=HOST:PORT of process 0, --processes and its own --process"
            )
        return Group() if _in_cluster() else None
    if (
        not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[^\s\]]+\]:\d{1,5}", coordinator)
        or not _port(coordinator) < 2**16
    ):
        raise ConfigError(
            f"--coordinator: expected HOST:PORT, where process 0 listens, got {coordinator!r}; change it"
        )
    if processes < 1:
        raise ConfigError(
            f"--processes: expected a number of processes, 1 or more, got {processes}; change it"
        )
    if not 0 <= process < processes:
        raise ConfigError(
            f"--process: expected an integer from 0 to {processes - 1}, as --processes={processes}, got "
            f"{process}; change it"
        )
    return Group(coordinator, processes, process) if processes > 1 else None


def _in_cluster() -> bool:
    """Whether Slurm, Open MPI or a TPU pod has started several processes, of which this is one."""
    tasks = any(os.environ.get(name, "1") != "1" and rank in os.environ for name, rank in _ALONE.items())
    return tasks or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


class _Member:
    """This process among the others."""

    def __init__(
        self, group: Group, requested: Callable[[], int | None], lost: Callable[[str, int], None]
    ) -> None:
        import jax
        from jax._src import distributed  # the store is nowhere public

        self.group = group
        self._requested, self._lost = requested, lost
        self._orders = 0  # told or heard
        self._count, self._lock = 0, threading.Lock()  # of signs of life
        self._failed: End | None = None  # why this process has to end, for process 0 to know
        self._end: End | None = None  # how process 0 ended
        self._leaving = False
        self._heard: dict[int, tuple[int, float]] = {}  # the last beat of each, and when it was new
        self._know_end = set[int]()  # who knows that process 0 has ended
        self._stopped_by: int | None = None
        self.client: Any = None
        host, port = group.coordinator.rpartition(":")[0].strip("[]"), _port(group.coordinator)
        address = group.coordinator
        if group.process:
            try:
                relay.connect((host, port), _MEETING).close()
            except OSError as error:
                raise DeviceError(
                    f"--coordinator: expected process 0 at {group.coordinator} within {_MEETING:g} s, found "
                    f"none ({error.strerror or error}); start it, or change the address"
                ) from error
            address = f"127.0.0.1:{relay.start((host, port), self._gone)}"
        # JAX's own watch over the processes is slower than ours, and ends them with a stack trace; its way
        # with SIGTERM would be beside ours.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(
                address,
                group.processes,
                group.process,
                cluster_detection_method="deactivate",
                initialization_timeout=int(_MEETING),
                heartbeat_timeout_seconds=1000,
            )
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DeviceError(
                f"--coordinator: expected {group.processes} processes that meet at {group.coordinator} "
                f"within {_MEETING:g} s, found: {reason}; start them all, or change the address"
            ) from error
        self.client = distributed.global_state.client
        for work in (self._beat, self._look):
            threading.Thread(target=work, name="hosts", daemon=True).start()

    def put(self, name: str, value: Any) -> None:
        """Puts a value where all processes find it."""
        self.client.key_value_set(f"mmids_cnn/{name}", json.dumps(value), allow_overwrite=True)

    def take(self, name: str) -> Any:
        """The value of a name, as soon as somebody has put it there; None where process 0 has ended."""
        while self._end is None:
            with contextlib.suppress(Exception):  # not there yet; that nobody is there, `_look` finds
                return json.loads(self.client.blocking_key_value_get(f"mmids_cnn/{name}", 2000))
            time.sleep(0.01)
        return None

    def tell(self, order: Any) -> None:
        """Process 0 tells all others what is next."""
        self.put(f"order/{self._orders}", order)
        if self._orders >= 2:  # all are done with it: they took part in the one after it
            with contextlib.suppress(Exception):
                self.client.key_value_delete(f"mmids_cnn/order/{self._orders - 2}")
        self._orders += 1

    def hear(self) -> Any:
        """What process 0 has told next."""
        self._orders += 1
        order = self.take(f"order/{self._orders - 1}")
        if isinstance(order, dict):
            self._end = End(*order["end"])
            with contextlib.suppress(Exception):  # it knows by the other thread, and has gone
                self._say_alive()
        return self._end or order

    def leave(self, end: End) -> None:
        """Takes leave of the others: process 0 says how it ended, another one why it has to."""
        with contextlib.suppress(Exception):  # somebody may have ended otherwise
            if self.group.process == 0:
                self._leaving = True
                self.put("end/how", end)
                self.tell({"end": end})
                until = time.monotonic() + _LEAVING
                while len(self._know_end) < self.group.processes - 1 and time.monotonic() < until:
                    self._read()
                    time.sleep(_BEAT / 25)
            elif self._end is None and end.status:
                self._failed = end
                time.sleep(4 * _BEAT)  # in which process 0 hears of it
        self._leaving = True
        # Not by JAX's way out, which waits for all processes, and aborts where one is not there any more.
        atexit.register(_exit, end.status)

    def _gone(self) -> None:
        """Process 0 has closed a connection: it has ended, perhaps after it said so."""
        time.sleep(2 * _BEAT)
        self._give_up(0, "its connection is closed")

    def _beat(self) -> None:
        """Tells every half second that this process is there, and whether it was asked to stop."""
        while True:
            known = self._end is not None
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
            state = [self._count, self._requested(), self._failed, self._end is not None]
            self.put(f"alive/{self.group.process}", state)

    def _read(self) -> None:
        """Takes note of what others have put there."""
        if self.group.process:
            for _, text in self.client.key_value_dir_get("mmids_cnn/end/"):
                self._end = End(*json.loads(text))
        for name, text in self.client.key_value_dir_get("mmids_cnn/alive/"):
            process, (count, signal, failed, known) = int(name.rpartition("/")[2]), json.loads(text)
            if self._heard.get(process, (0, 0.0))[0] != count:
                self._heard[process] = count, time.monotonic()
            self._know_end |= {process} if known else set()
            if self.group.process or not process or self._leaving:
                continue
            if failed:
                status, line = failed
                self.put("end/how", [status, f"process {process}: {line}"])
                time.sleep(2 * _BEAT)
                self._lost(f"process {process}: {line}", status)
            elif signal and self._stopped_by is None:
                self._stopped_by = signal
                os.kill(os.getpid(), signal)

    def _look(self) -> None:
        """Ends this process where another one is not heard of any more."""
        others = [0] if self.group.process else range(1, self.group.processes)
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
        if self._end:
            self._lost(self._end.line, self._end.status)
        if self.group.process == 0:
            with contextlib.suppress(Exception):
                self.put("end/how", [1, f"process {process} was lost"])
                time.sleep(2 * _BEAT)
        self._lost(
            f"process {process}: expected that it goes on, found that {why}; the last checkpoint is whole: "
            "give all processes the same command again to go on from there",
            1,
        )


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


_here: _Member | None = None


def join(group: Group, requested: Callable[[], int | None], lost: Callable[[str, int], None]) -> None:
    """Meets the other processes, and from then on watches that they are there.

    Args:
      group: the processes; what it leaves open is found as the cluster has it.
      requested: the signal that asked this process to stop, or None; process 0 is sent the same one.
      lost: called, in another thread, with a line and an exit status where this process is to end, as
        another one has ended or is lost; is not to return.

    Raises:
      DeviceError: the others were not found.
    """
    global _here
    if group.process < 0:
        from jax._src import clusters

        find: Any = clusters.ClusterEnv.auto_detect_unset_distributed_params
        group = Group(*find(None, None, None, None, None, 60)[:3])
    _here = _Member(group, requested, lost)


def count() -> int:
    """How many processes train one model; 1 before `join`."""
    return _here.group.processes if _here else 1


def leads() -> bool:
    """Whether this process decides, prints and writes."""
    return _here is None or _here.group.process == 0


def facts_of_others(own: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What the other processes say of themselves, by their numbers; only process 0 is told."""
    if _here is None:
        return {}
    if not leads():
        with contextlib.suppress(Exception):  # process 0 may have ended by now, which `hear` tells
            _here.put(f"facts/{_here.group.process}", own)
        return {}
    return {process: _here.take(f"facts/{process}") for process in range(1, _here.group.processes)}


def tell(order: tuple[int, ...]) -> None:
    """Tells the others what to compute next, where there are any."""
    if _here:
        _here.tell(order)


def hear() -> tuple[int, ...] | End:
    """What process 0 tells this one to compute next, or how it ended; waits until it does."""
    assert _here is not None
    order = _here.hear()
    return order if isinstance(order, End) else tuple(order)


def leave(end: End) -> None:
    """Takes leave of the other processes: process 0 says how it ended, another one why it has to."""
    if _here:
        _here.leave(end)


def same(tree: Any) -> Any:
    """The arrays of process 0, bit for bit, of a tree that has the same shapes in all processes."""
    if count() == 1:
        return tree
    import jax
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    # As bytes: floats are added up there, and -0 + 0 is 0.
    own = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    content = np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    arrays = [
        np.frombuffer(content[end - leaf.nbytes : end], leaf.dtype).reshape(leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)
