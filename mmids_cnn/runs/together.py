"""Several processes that work on one run: they meet, agree on what is run, and end together."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import jax

from mmids_cnn import config as config_lib
from mmids_cnn import data, loop
from mmids_cnn.console import command, signals
from mmids_cnn.console.terminal import Terminal, counted
from mmids_cnn.devices import device, hosts, meeting, programs
from mmids_cnn.errors import ConfigError, FaultError, UserError
from mmids_cnn.runs import provenance
from mmids_cnn.settings import schema

_LATE_SECONDS = 10.0  # after which a process that is not the first says that it waits
_GRACE_SECONDS = 10.0  # for process 0 to hear of a signal, to save and to say so


@contextlib.contextmanager
def joined(group: hosts.Group, terminal: Terminal) -> Iterator[bool]:
    """Meets the other processes; what ends this one ends them.

    Args:
      group: the processes.
      terminal: what process 0 shows on that it waits for others.

    Yields:
      Whether this process is the one that leads.

    Raises:
      DeviceError: the others were not found.
      FaultError: one of them was lost.
    """
    group = hosts.found(group)
    if group.process == 0:
        terminal.note(f"waiting at {group.coordinator} for {counted(group.processes - 1, 'other process')}")
    late = threading.Timer(_LATE_SECONDS, command.warn, [_waits(group)])
    late.daemon = True
    if group.process:
        late.start()
    signals.last_words(lambda error: hosts.leave(hosts.End(error.exit_status, str(error))))
    hosts.join(group, signals.requested, _end)
    late.cancel()
    if not hosts.leads():  # a signal is for process 0 to see to, which needs its own time
        signals.defer(_GRACE_SECONDS)
    try:
        device.found()  # JAX looks for devices in all processes at once: none of them may end before
        yield hosts.leads()
    except UserError as error:
        others = isinstance(error, signals.InterruptedRunError) or str(error).startswith("process ")
        said = str(error) if others or not hosts.leads() else f"process 0: {error}"
        hosts.leave(hosts.End(error.exit_status, said))
        raise
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        lost = FaultError(
            f"another process: expected that it computes with this one, found: {reason}; the last checkpoint "
            "is whole: give all processes the same command again to go on from there"
        )
        hosts.leave(hosts.End(lost.exit_status, str(lost)))
        raise lost from error
    except BaseException as error:
        hosts.leave(hosts.End(1, f"unexpected {type(error).__name__}: {error}"))
        raise
    hosts.leave(hosts.End(0, ""))


def agree(experiment: config_lib.Experiment, dataset: data.Dataset) -> None:
    """Makes sure that all processes run the same, where there are several.

    Raises:
      ConfigError: one of them has another configuration, other data, code, versions or devices.
    """
    if hosts.count() == 1:  # whose facts nobody asks for
        return
    own = _facts(experiment, dataset)
    for process, found in hosts.facts_of_others(own).items():
        names = [name for name in own | found if own.get(name) != found.get(name)]
        if names:
            differences = (f"{name}: {own.get(name)!r} here, {found.get(name)!r} there" for name in names)
            raise ConfigError(
                f"process {process}: expected what process 0 has, found another {'; '.join(differences)}; "
                "give all processes the same command, code, versions and data"
            )


def follow(experiment: config_lib.Experiment) -> None:
    """Trains with process 0 until it ends; nothing is printed or written.

    Raises:
      UserError: process 0 ended, or this one had to end, by an error or a signal.
    """
    config_lib.require_sources(config_lib.sources(experiment))
    dataset = data.load(experiment.dataset, lambda what, done, total: None)
    agree(experiment, dataset)
    end = loop.follow(experiment, dataset)
    if end.status > 128:
        raise signals.InterruptedRunError(end.status - 128, end.line.partition(": ")[2])
    if end.status:
        error = UserError(end.line)
        error.exit_status = end.status
        raise error


def _facts(experiment: config_lib.Experiment, dataset: data.Dataset) -> dict[str, Any]:
    """What the bits of a step depend on, by name, fit for JSON."""
    leaves = {k: v for k, v in schema.flatten(experiment).items() if config_lib.changes_result(k)}
    facts: dict[str, Any] = {
        "data": dataset.fingerprint[:16],
        "code": programs.digest_of_sources()[:16],
        "device": {k: v for k, v in device.found().items() if k != "cores"},
        "packages": provenance.versions(),
        "jax": provenance.settings(),
        "source of": {
            name: str(one["sha256"])[:16]
            for name, one in provenance.sources(config_lib.sources(experiment)).items()
        },
    }
    named: dict[str, Any] = {f"config.{name}": repr(value) for name, value in leaves.items()}
    for what, fact in facts.items():
        named |= {f"{what} {k}": v for k, v in fact.items()} if isinstance(fact, dict) else {what: fact}
    return named


def _waits(group: hosts.Group) -> str:
    return (
        f"process {group.process} waits for process 0 at {group.coordinator}, and for all of "
        f"{group.processes}; up to {meeting.SECONDS:g} s"
    )


def _end(line: str, status: int) -> None:
    """Ends this process where another one has ended, or is lost: JAX may wait for it for ever."""
    if status > 128:
        command.warn(line)
    elif status:
        command.complain(line, status)
    os._exit(status)
