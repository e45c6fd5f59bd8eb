"""Runs of the real command in several processes that train one model."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import processes as processes_lib
from tests.support.processes import Place, Process


class Ended(NamedTuple):
    """How one process of a group ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


class Group:
    """The processes of one run, started; process 0 is the first."""

    def __init__(self, place: Place, name: str, processes: list[Process]) -> None:
        self.place, self.name, self.processes = place, name, processes

    @property
    def workdir(self) -> Path:
        """The folder of their run."""
        return self.place.work / self.name

    def __getitem__(self, index: int) -> Process:
        return self.processes[index]

    def wait(self, timeout: float = 120) -> list[Ended]:
        """How each ended; one that has not by then is killed, and an error."""
        try:
            until = time.monotonic() + timeout
            status = [one.wait(timeout=max(0.1, until - time.monotonic())) for one in self.processes]
        finally:
            for process in self.processes:
                with contextlib.suppress(OSError):
                    process.kill()
        names = [f"{self.name}.{index}" for index in range(len(self.processes))]
        return [Ended(s, *self.place.output(name)) for s, name in zip(status, names, strict=True)]


def start(
    place: Place,
    name: str,
    count: int,
    *overrides: str,
    each: tuple[tuple[str, ...], ...] = (),
    coordinator: str = "",
    forked: bool = True,
    **environment: str,
) -> Group:
    """Starts a run in several processes.

    Args:
      place: where.
      name: of the run folder.
      count: how many processes.
      overrides: what all are given.
      each: what process 0, 1, ... are given besides.
      coordinator: where they meet; a free port of this machine if not given.
      forked: whether they are forked from a process that has imported JAX, where that can be.
      environment: what is other than in this process.
    """
    coordinator = coordinator or f"127.0.0.1:{processes_lib.free_port()}"
    processes = []
    for process in range(count):
        flags = (f"--coordinator={coordinator}", f"--processes={count}", f"--process={process}")
        own = each[process] if each else ()
        arguments = (*overrides, f"--workdir={name}", *flags, *own)
        processes.append(place.start(f"{name}.{process}", *arguments, forked=forked, **environment))
    return Group(place, name, processes)


def run(place: Place, name: str, count: int, *overrides: str, **environment: str) -> list[Ended]:
    """Runs in several processes to the end."""
    return start(place, name, count, *overrides, **environment).wait()


@contextlib.contextmanager
def linked() -> Iterator[tuple[str, str] | None]:
    """Two network namespaces with a wire between them, as two hosts have; None where that is not allowed.

    The address of the first is 10.77.0.1; its end of the wire is called mmids0.
    """
    names = ["mmids-a", "mmids-b"]

    def ip(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0

    hosts = {name: Path("/etc/netns") / name / "hosts" for name in names}
    try:
        made = all(ip("netns", "add", name) for name in names)
        wire = ("add", "mmids0", "netns", names[0], "type", "veth", "peer", "mmids1", "netns", names[1])
        made = made and ip("link", *wire)
        for index, name in enumerate(names):
            address = f"10.77.0.{index + 1}"
            made = made and ip("-n", name, "addr", "add", f"{address}/24", "dev", f"mmids{index}")
            made = made and ip("-n", name, "link", "set", f"mmids{index}", "up")
            made = made and ip("-n", name, "link", "set", "lo", "up")
            if made:  # its own name leads to the wire
                hosts[name].parent.mkdir(parents=True, exist_ok=True)
                own = Path("/etc/hostname").read_text().strip()
                hosts[name].write_text(f"127.0.0.1 localhost\n{address} {own}\n")
        yield (names[0], names[1]) if made else None
    finally:
        for name in names:
            ip("netns", "del", name)
            hosts[name].unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                hosts[name].parent.rmdir()
