"""Trains populations on a Ray cluster: jobs are tasks, and those of a lost worker or node are run again."""

import contextlib
import importlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmids_cnn.console import signals
from mmids_cnn.errors import FaultError, UserError
from mmids_cnn.populations import population
from mmids_cnn.populations.executor import Executor, Listener, Update, update

_RETRIES = 5  # of a population whose worker or node is lost, before the sweep gives up
_POLL_SECONDS = 0.5


@contextlib.contextmanager
def connected(populations_per_device: int, roots: Sequence[Path]) -> Iterator[Executor]:
    """An executor that sends populations to the cluster, which is there until the block ends.

    To be entered before JAX is used: Ray forks, and its driver leaves accelerators to the workers.

    Args:
      populations_per_device: as of `share`.
      roots: folders that the workers import from too.

    Raises:
      FaultError: no cluster answers.
    """
    with _cluster():
        yield _Ray(populations_per_device, roots)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Connects to the cluster at RAY_ADDRESS, or starts one on this machine that listens to itself alone."""
    address = os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        settings |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        # Read when Ray is imported. On Linux too it is what keeps every one of its ports on 127.0.0.1.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

    import jax
    import ray

    jax.config.update("jax_platforms", "cpu")  # accelerators are the workers', also those of this machine
    started = not ray.is_initialized()
    try:
        if started:
            _require_answer(address)
            ray.init(address=address, **settings)
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray's own handlers would end the process at once
            if signals.watching():
                signal.signal(number, lambda number, frame: None)
    except Exception as error:  # Ray raises many kinds
        raise FaultError(
            f"config.sweep.executor: expected a Ray cluster at RAY_ADDRESS={address or ''!r}, found: "
            f"{error}; start one, or unset RAY_ADDRESS for one on this machine"
        ) from error
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Raises OSError if nobody listens at an address: Ray itself would ask on for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def share(
    nodes: Sequence[Mapping[str, float]], populations_per_device: int, environment: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """What a population takes of a Ray cluster, and the environment of the process that trains it.

    Args:
      nodes: the resources of each node, as Ray counts them.
      populations_per_device: how many share a GPU, or the cores of a node where there is no GPU; with 0 one
        has all GPUs of a node, whose members are shared out among them.
      environment: of this process; settings of JAX are passed on.

    Returns:
      Resources by name, and variables that are set before the process imports JAX.
    """
    variables = {name: value for name, value in environment.items() if name.startswith(("JAX_", "XLA_"))}
    if any(node.get("GPU") for node in nodes):
        variables.pop("JAX_PLATFORMS", None)  # this process may well keep to its CPU
        if populations_per_device > 1:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / populations_per_device:.3f}"
        of_a_node = min(node["GPU"] for node in nodes if node.get("GPU"))
        gpus = 1 / populations_per_device if populations_per_device else of_a_node
        return {"num_gpus": gpus, "num_cpus": 0}, variables
    of_a_node = int(min(node["CPU"] for node in nodes if node.get("CPU")))
    cores = max(1, of_a_node // max(1, populations_per_device))
    return {"num_cpus": cores}, variables | {"JAX_NUM_CPU_DEVICES": str(cores)}


class _Ray:
    """Trains jobs as tasks of the cluster; those of a lost worker or node are run again elsewhere."""

    def __init__(self, populations_per_device: int, roots: Sequence[Path]) -> None:
        ray: Any = importlib.import_module("ray")
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs, variables = share(nodes, populations_per_device, os.environ)
        if roots:
            variables["PYTHONPATH"] = os.pathsep.join(map(str, roots))
        self._task = ray.remote(max_retries=_RETRIES, runtime_env={"env_vars": variables}, **needs)(_work)
        here = ray.get_runtime_context().get_node_id()
        beside = strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        self._notes = ray.remote(num_cpus=0, scheduling_strategy=beside)(_Notes).remote()

    def __call__(self, jobs: Sequence[population.Job], listener: Listener) -> None:
        """Sends the jobs out and waits for them, in whichever order they end."""
        ray, names = self._ray, {job.name: job for job in jobs}
        pending = {self._task.remote(job, self._notes): job for job in jobs}
        try:
            while pending:
                done, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
                listener.poll()
                for name, update in self._read_notes():
                    if name in names and names[name] in pending.values():
                        listener.progress(names[name], update, None)
                for reference in done:
                    job = pending.pop(reference)
                    listener.finished(job, self._result(job, reference))
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _result(self, job: population.Job, reference: Any) -> population.Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise FaultError(
                f"{job.name}: expected Ray to train it, {_RETRIES} retries failed: {reason}; see to the "
                "cluster, then give the same command again"
            ) from error

    def _read_notes(self) -> list[tuple[str, Update]]:
        with contextlib.suppress(self._ray.exceptions.RayError):  # progress is worth no failure
            return self._ray.get(self._notes.take.remote(), timeout=5)
        return []


class _Notes:
    """Passes on how far the jobs are; an actor beside the driver."""

    def __init__(self) -> None:
        self._notes: dict[str, Update] = {}

    def put(self, name: str, update: Update) -> None:
        self._notes[name] = update

    def take(self) -> list[tuple[str, Update]]:
        notes, self._notes = self._notes, {}
        return list(notes.items())


def _work(job: population.Job, notes: Any) -> population.Outcome:
    for part in population.run(job):
        notes.put.remote(job.name, update(part))
        if part.finished:
            return part.outcome(with_state=job.keeps_states)
    raise AssertionError(f"{job.name}: training ended before epoch {job.epochs}")
