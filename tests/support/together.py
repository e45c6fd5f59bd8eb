"""Runs of the real command in several processes that train one model."""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import processes as processes_lib
from tests.support.processes import Place, Process

LONG = ("--config.num_epochs=100000", "--config.checkpoint.every_seconds=0.5")
"""Flags of a run that does not end by itself."""

SECONDS = 60
"""In which all processes have to end where one is lost."""


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
def linked(delay: float = 0.0, loss: float = 0.0) -> Iterator[tuple[str, str] | None]:
    """Two network namespaces with a wire between them, as two hosts have; None where that is not allowed.

    The address of the first is 10.77.0.1; its end of the wire is called mmids0.

    Args:
      delay: seconds that a packet is on its way.
      loss: share of packets that never come. With either, packets are carried by a thread between two TUN
        devices, as not every kernel has `netem`.
    """
    names, ends = [f"mmids-{os.getpid()}-{end}" for end in "ab"], ["mmids0", "mmids1"]

    def ip(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0

    hosts = {name: Path("/etc/netns") / name / "hosts" for name in names}
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, names, hosts)
        made = all(ip("netns", "add", name) for name in names)
        if delay or loss:
            devices = [f"mmids{os.getpid() % 10**6}{end}" for end in "ab"]
            made = made and _carried(devices, delay, loss, stack)
            for device, end, name in zip(devices, ends, names, strict=True):
                made = made and ip("link", "set", device, "netns", name, "name", end)
        else:
            wire = ("add", ends[0], "netns", names[0], "type", "veth", "peer", ends[1], "netns", names[1])
            made = made and ip("link", *wire)
        for index, name in enumerate(names):
            address = f"10.77.0.{index + 1}"
            made = made and ip("-n", name, "addr", "add", f"{address}/24", "dev", ends[index])
            made = made and ip("-n", name, "link", "set", ends[index], "up")
            made = made and ip("-n", name, "link", "set", "lo", "up")
            if made:  # its own name leads to the wire
                hosts[name].parent.mkdir(parents=True, exist_ok=True)
                own = Path("/etc/hostname").read_text().strip()
                hosts[name].write_text(f"127.0.0.1 localhost\n{address} {own}\n")
        yield (names[0], names[1]) if made else None


def _remove(names: list[str], hosts: dict[str, Path]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        hosts[name].unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            hosts[name].parent.rmdir()


def _carried(devices: list[str], delay: float, loss: float, stack: contextlib.ExitStack) -> bool:
    """Makes two TUN devices, and starts to carry packets between them; False where that is not allowed."""
    files = []
    try:
        for device in devices:
            files.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
            stack.callback(os.close, files[-1])
            fcntl.ioctl(
                files[-1], _TUNSETIFF, struct.pack("16sH22s", device.encode(), _IFF_TUN | _IFF_NO_PI, b"")
            )
    except OSError:
        return False
    over = threading.Event()
    carrier = threading.Thread(target=_carry, args=(files, delay, loss, over))
    carrier.start()
    stack.callback(carrier.join)
    stack.callback(over.set)
    return True


_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # <linux/if_tun.h>


def _carry(files: list[int], delay: float, loss: float, over: threading.Event) -> None:
    """Gives each packet of one end to the other one, after a delay, but for those that are lost."""
    chance, order = random.Random(0), itertools.count()
    on_the_way: list[tuple[float, int, int, bytes]] = []
    others = dict(zip(files, reversed(files), strict=True))
    while not over.is_set():
        wait = on_the_way[0][0] - time.monotonic() if on_the_way else 0.05
        for file in select.select(files, [], [], max(0.0, wait))[0]:
            with contextlib.suppress(OSError):  # the device is not up yet
                packet = os.read(file, 2**16)
                if chance.random() >= loss:
                    heapq.heappush(on_the_way, (time.monotonic() + delay, next(order), others[file], packet))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, _, file, packet = heapq.heappop(on_the_way)
            with contextlib.suppress(OSError):
                os.write(file, packet)


def succeeded(ended: list[Ended]) -> None:
    """All ended well, and the first one alone said something."""
    assert [one.status for one in ended] == [0] * len(ended), ended
    assert "finished already" in ended[0].out or "test accuracy" in ended[0].out
    assert [one.out for one in ended[1:]] == [""] * (len(ended) - 1)
    assert [one.err for one in ended] == [""] * len(ended)
