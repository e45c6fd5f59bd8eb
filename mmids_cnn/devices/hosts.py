"""Several processes, on one machine or many, that train one model: how they meet, and who tells what to whom.

Process 0 leads: it alone decides, prints and writes, and tells the others step by step what to compute with
it. Once they have met (`meeting`), all that passes between them but arrays goes through the store of names
and values that JAX's coordinating service keeps, in process 0. That all of them are there is seen to by
`watch`. Nothing here imports JAX before `join`.
"""

import atexit
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmids_cnn.devices import cores, meeting, relay, watch
from mmids_cnn.devices.watch import End as End
from mmids_cnn.errors import ConfigError, DeviceError

# How many processes were started, and what only one of these has; a batch script of Slurm is no task.
_CLUSTERS = {"SLURM_NTASKS": "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
_ON_A_MACHINE = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


class Group(NamedTuple):
    """The processes that train one model, and which of them this one is; '' and -1 where JAX finds out."""

    coordinator: str = ""  # where process 0 listens, 'host:port'
    processes: int = -1
    process: int = -1
    local_devices: tuple[int, ...] | None = None  # accelerators of its machine that it uses; None: all


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
        or not 0 < _port(coordinator) < 2**16
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
    tasks = any(os.environ.get(size, "1") != "1" and own in os.environ for size, own in _CLUSTERS.items())
    return tasks or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _address(coordinator: str) -> tuple[str, int]:
    return coordinator.rpartition(":")[0].strip("[]"), _port(coordinator)


class _Store:
    """The names and values that JAX's coordinating service keeps in process 0, ours among them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, name: str, value: Any) -> None:
        """Puts a value, fit for JSON, where all processes find it."""
        self._client.key_value_set(f"mmids_cnn/{name}", json.dumps(value), allow_overwrite=True)

    def drop(self, name: str) -> None:
        """Forgets a name and its value."""
        self._client.key_value_delete(f"mmids_cnn/{name}")

    def take(self, name: str, seconds: float) -> Any:
        """The value of a name, once somebody has put it there; an error of JAX's where nobody has in time."""
        return json.loads(self._client.blocking_key_value_get(f"mmids_cnn/{name}", int(1000 * seconds)))

    def folder(self, name: str) -> dict[str, Any]:
        """All values whose names begin with `name/`, by what follows."""
        found = self._client.key_value_dir_get(f"mmids_cnn/{name}/")
        return {key.rpartition("/")[2]: json.loads(text) for key, text in found}


class _Member:
    """This process among the others: what passes between process 0 and them."""

    def __init__(self, group: Group, store: _Store, others: watch.Watch) -> None:
        self.group, self.store, self._others = group, store, others
        self._orders = 0  # told or heard

    def take(self, name: str) -> Any:
        """The value of a name, as soon as somebody has put it there; None where process 0 has ended."""
        while self._others.end is None:
            with contextlib.suppress(Exception):  # not there yet; that nobody is there, the watch finds
                return self.store.take(name, 2)
            time.sleep(0.01)
        return None

    def tell(self, order: Any) -> None:
        """Process 0 tells all others what is next."""
        self.store.put(f"order/{self._orders}", order)
        if self._orders >= 2:  # all are done with it: they took part in the one after it
            with contextlib.suppress(Exception):
                self.store.drop(f"order/{self._orders - 2}")
        self._orders += 1

    def hear(self) -> Any:
        """What process 0 has told next, or its `End`."""
        self._orders += 1
        order = self.take(f"order/{self._orders - 1}")
        if isinstance(order, dict):
            self._others.note_end(End(*order["end"]))
        return self._others.end or order

    def leave(self, end: End) -> None:
        """Takes leave of the others: process 0 says how it ended, another one why it has to."""
        with contextlib.suppress(Exception):  # somebody may have ended otherwise
            if self.group.process == 0:
                self._others.end_all(end, lambda: self.tell({"end": end}))
            else:
                self._others.fail(end)
        self._others.stop()
        # Not by JAX's way out, which waits for all processes, and aborts where one is not there any more.
        atexit.register(_exit, end.status)


def _meet(group: Group, lost: Callable[[str, int], None], gone: Callable[[], None]) -> _Store:
    """Waits until all processes of a group are there.

    Args:
      group: the processes.
      lost: called where this process is to end, as another one did before all had begun.
      gone: called once process 0 is not there any more.
    """
    global _meeting
    import jax
    from jax._src import distributed  # the store is nowhere public

    host, port, devices = *_address(group.coordinator), cores.devices()
    if group.process == 0:
        _meeting = meeting.Host((host, port), group.processes, devices, lost)
    else:
        _meeting = meeting.Guest((host, port), group.process, group.processes, devices, lost)
    met = _meeting.meet()
    # JAX's own watch over the processes is slower than ours, and ends them with a stack trace; its way with
    # SIGTERM would be beside ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_num_cpu_devices", met.devices)  # equally many, as JAX's exchanges want them
    try:
        jax.distributed.initialize(
            f"127.0.0.1:{relay.start((host, met.port), gone) if group.process else met.port}",
            group.processes,
            group.process,
            group.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(meeting.SECONDS),
            heartbeat_timeout_seconds=1000,
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"--coordinator: expected {group.processes} processes that meet at {group.coordinator}, found: "
            f"{reason}; start them all, or change the address"
        ) from error
    _meeting.begun()
    return _Store(distributed.global_state.client)


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


_meeting: meeting.Host | meeting.Guest | None = None
_here: _Member | None = None


def found(group: Group) -> Group:
    """A group with all that it leaves open, as the cluster has it.

    Raises:
      DeviceError: the cluster does not say.
    """
    if group.process >= 0:
        return group
    from jax._src import clusters

    find: Any = clusters.ClusterEnv.auto_detect_unset_distributed_params
    coordinator, processes, process, devices, *_ = find(None, None, None, None, None, 60)
    if coordinator is None or processes is None or process is None:
        raise DeviceError(
            "--coordinator: expected a cluster that says where process 0 listens, found several processes "
            "and no address; give each --coordinator=HOST:PORT, --processes and its own --process"
        )
    # JAX gives each task one device, even where one has the machine to itself.
    return Group(coordinator, processes, process, tuple(devices) if devices and _shares_a_machine() else None)


def _shares_a_machine() -> bool:
    """Whether a cluster has started several processes on one machine; '1(x3),2' is 1 on each of three."""
    counts = (os.environ.get(name) for name in _ON_A_MACHINE)
    return any(one.partition("(")[0] != "1" for one in next(filter(None, counts), "1").split(","))


def join(group: Group, requested: Callable[[], int | None], lost: Callable[[str, int], None]) -> None:
    """Meets the other processes, and from then on watches that they are there.

    Args:
      group: the processes, none of it left open.
      requested: the signal that asked this process to stop, or None; process 0 is sent the same one.
      lost: called, in another thread, with a line and an exit status where this process is to end, as
        another one has ended or is lost; is not to return.

    Raises:
      DeviceError: the others were not found.
    """
    global _here
    others = watch.Watch(group.process, group.processes, requested, lost)
    store = _meet(group, lost, others.gone)
    others.start(store)
    _here = _Member(group, store, others)


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
            _here.store.put(f"facts/{_here.group.process}", own)
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
    elif _meeting:  # not all have begun
        _meeting.leave(*end)


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
