"""Processes that train one model and lose one another: all end within a minute, and go on from there."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import processes, together
from tests.support.processes import Place
from tests.support.together import LONG, SECONDS, Group

GOES_ON = "give all processes the same command again to go on from there"


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_is_killed(place: Place, who: int) -> None:
    longer = ("--config.num_epochs=40", "--config.eval.every_epochs=0")
    alone = place.run("alone", *longer)
    assert alone.returncode == 0, alone.stderr
    group = together.start(place, "run", 2, *longer, "--config.checkpoint.every_seconds=0.05")
    processes.until(group[who], lambda: bool(processes.steps(group.workdir)))
    group[who].kill()
    ended = group.wait(SECONDS)
    assert ended[who].status == -signal.SIGKILL
    other = ended[1 - who]
    assert other.status == 1
    assert other.err.startswith("error: ") and other.err.endswith(f"{GOES_ON}\n")
    assert other.err.count("\n") == 1
    together.succeeded(together.run(place, "run", 2, *longer))
    assert processes.bits(group.workdir) == processes.bits(place.work / "alone")


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_stands_still(place: Place, who: int) -> None:
    group = together.start(place, "run", 2, *LONG)
    processes.until(group[who], lambda: bool(processes.steps(group.workdir)))
    group[who].send_signal(signal.SIGSTOP)
    assert group[1 - who].wait(timeout=SECONDS) == 1
    group[who].send_signal(signal.SIGCONT)
    for one in group.wait(SECONDS):
        assert one.status == 1
        assert one.err.startswith("error: ")
        assert one.err.endswith(f"{GOES_ON}\n") and one.err.count("\n") == 1
    assert processes.steps(group.workdir)


def test_a_short_halt_is_waited_for(place: Place) -> None:
    group = together.start(place, "run", 2, "--config.checkpoint.every_seconds=0.05")
    processes.until(group[1], lambda: bool(processes.steps(group.workdir)))
    group[1].send_signal(signal.SIGSTOP)
    time.sleep(8)
    group[1].send_signal(signal.SIGCONT)
    together.succeeded(group.wait())


def on_two_hosts(place: Place, hosts: tuple[str, str], *overrides: str) -> list[subprocess.Popen[str]]:
    """Starts a run whose processes reach one another over the wire between two network namespaces alone."""
    started = []
    for process, host in enumerate(hosts):
        flags = ("--coordinator=10.77.0.1:29400", "--processes=2", f"--process={process}", "--workdir=run")
        command = ["ip", "netns", "exec", host, *place.command("run", *overrides, *flags)]
        out, err = (place.work / f"run.{process}.{end}" for end in ("out", "err"))
        with open(out, "w") as stdout, open(err, "w") as stderr:
            environment = place.environment(JAX_NUM_CPU_DEVICES="1")
            started.append(
                subprocess.Popen(
                    command, cwd=place.work, env=environment, stdout=stdout, stderr=stderr, text=True
                )
            )
    return started


def trains_on_two_hosts(place: Place, hosts: tuple[str, str], unbroken: Path) -> None:
    """A run on two hosts ends well, with the bits of one process."""
    together.succeeded(Group(place, "run", on_two_hosts(place, hosts)).wait())
    assert processes.bits(place.work / "run") == processes.bits(unbroken)


def test_two_hosts_far_apart_on_a_bad_wire(place: Place, unbroken: Path) -> None:
    """Ten milliseconds each way, and every fiftieth packet lost."""
    with together.linked(delay=0.01, loss=0.02) as hosts:
        if hosts is None:
            pytest.skip("network namespaces and TUN devices need root, and a system that has them")
        trains_on_two_hosts(place, hosts, unbroken)


def test_two_hosts_and_a_wire_that_breaks(place: Place, unbroken: Path) -> None:
    with together.linked() as hosts:
        if hosts is None:
            pytest.skip("network namespaces need root, and a system that has them")
        trains_on_two_hosts(place, hosts, unbroken)
        shutil.rmtree(place.work / "run")
        started = on_two_hosts(place, hosts, *LONG)
        processes.until(started[0], lambda: bool(processes.steps(place.work / "run")))
        subprocess.run(["ip", "-n", hosts[0], "link", "set", "mmids0", "down"], check=True)
        for index, one in enumerate(started):
            assert one.wait(timeout=SECONDS) == 1
            said = place.output(f"run.{index}")[1]
            assert said.startswith("error: ") and said.endswith(f"{GOES_ON}\n"), said
        assert processes.steps(place.work / "run")
