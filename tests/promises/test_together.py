"""Several processes that train one model: the bits of one alone, and an end of all where one ends."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.promises import torture
from tests.support import idx_files, processes, together
from tests.support.processes import ROOT, Place
from tests.support.together import LONG, SECONDS, Group

BATCH = "--config.batch_size=256"  # eight groups, enough for four processes of two devices
OWN = """
import flax.linen as nn
from ml_collections import ConfigDict
from experiments import base

class Whole(nn.Module):
    num_classes: int
    channels: tuple[int, ...] = (8,)

    @nn.compact
    def __call__(self, images, *, train=False, valid=None):
        x = nn.BatchNorm(use_running_average=not train)(images.reshape(len(images), -1) / 255.0)
        return nn.Dense(self.num_classes)(x)

def get_config():
    config = base.get_config()
    config.model = ConfigDict({"name": "whole:Whole", "channels": (8,)})
    return config
"""


@pytest.mark.parametrize(
    ("count", "devices", "alone_devices", "overrides"),
    [
        (2, 1, 8, ("--config.dataset.placement=streamed",)),
        (2, 2, 1, torture.EVERYTHING.arguments),
        (4, 1, 4, torture.EVERYTHING.arguments),
        (4, 2, 2, ("--config.train.groups=16",)),
    ],
)
def test_bits_are_those_of_one_process(
    place: Place, count: int, devices: int, alone_devices: int, overrides: tuple[str, ...]
) -> None:
    overrides = (*overrides, BATCH)
    alone = place.run("alone", *overrides, JAX_NUM_CPU_DEVICES=str(alone_devices))
    assert alone.returncode == 0, alone.stderr
    ended = together.run(place, "group", count, *overrides, JAX_NUM_CPU_DEVICES=str(devices))
    together.succeeded(ended)
    assert f"; {count} processes train together" in ended[0].out
    assert processes.bits(place.work / "group") == processes.bits(place.work / "alone")


@pytest.mark.parametrize(("number", "who"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_to_any_process_saves_once_and_ends_all(
    place: Place, number: signal.Signals, who: int
) -> None:
    group = together.start(place, "run", 2, *LONG)
    processes.until(group[who], lambda: bool(processes.steps(group.workdir)))
    group[who].send_signal(number)
    ended = group.wait()
    assert [one.status for one in ended] == [128 + number] * 2, ended
    (said,) = {one.err for one in ended}  # by both
    step = processes.steps(group.workdir)[-1]
    assert said == (
        f"stopped by {number.name}: after step {step:,}; give the same command again to go on from there\n"
    )


def test_a_process_says_that_it_waits_for_the_first(place: Place) -> None:
    coordinator = f"127.0.0.1:{processes.free_port()}"
    flags = (f"--coordinator={coordinator}", "--processes=2", "--process=1", "--workdir=run")
    alone = place.start("run.1", *flags)
    said = f"note: process 1 waits for process 0 at {coordinator}, and for all of 2; up to 300 s\n"
    processes.until(alone, lambda: place.output("run.1")[1] == said)
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(timeout=SECONDS) == 128 + signal.SIGTERM


def without_the_last(place: Place) -> Group:
    """The first two processes of three, which wait for the third."""
    group = together.start(place, "run", 2, each=(("--processes=3",),) * 2)
    processes.until(group[0], lambda: "waiting at" in place.output("run.0")[0])
    processes.until(group[1], lambda: "process 1 waits" in place.output("run.1")[1])
    return group


def test_a_signal_before_all_have_met_ends_all(place: Place) -> None:
    group = without_the_last(place)
    group[1].send_signal(signal.SIGTERM)
    said = "stopped by SIGTERM: nothing was left to save; give the same command again\n"
    for one in group.wait(SECONDS):
        assert one.status == 143 and one.err.endswith(said) and "rror" not in one.err, one


def test_a_process_that_ends_before_all_have_met_ends_all(place: Place) -> None:
    group = without_the_last(place)
    group[1].kill()
    first = group.wait(SECONDS)[0]
    assert first.status == 1
    assert first.err == (
        "error: process 1: expected that it begins with all others, found that it has ended; give all "
        "processes the same command again\n"
    )


def test_another_number_of_processes_is_refused(place: Place) -> None:
    each = ((), ("--processes=3",))
    ended = together.start(place, "run", 2, each=each).wait(SECONDS)
    said = (
        "error: --processes: expected the same number for all, got 2 for process 0 and 3 for process 1; "
        "change it\n"
    )
    assert [(one.status, one.err) for one in ended] == [(2, said)] * 2


def test_a_process_that_is_started_twice_is_refused(place: Place) -> None:
    coordinator = f"127.0.0.1:{processes.free_port()}"
    group = together.start(place, "run", 2, *LONG, coordinator=coordinator)
    processes.until(group[1], lambda: bool(processes.steps(group.workdir)))
    flags = (f"--coordinator={coordinator}", "--processes=2", "--process=1", "--workdir=run")
    again = place.start("again", *LONG, *flags)
    assert again.wait(timeout=SECONDS) == 2
    assert place.output("again")[1] == (
        "error: --process: expected one that is awaited, got 1 where all are there already; end that run\n"
    )
    before = processes.steps(group.workdir)
    processes.until(group[0], lambda: processes.steps(group.workdir) != before)  # the run goes on
    group[0].send_signal(signal.SIGTERM)
    assert [one.status for one in group.wait()] == [143, 143]


def test_a_coordinator_whose_port_is_taken(place: Place) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        group = together.start(place, "run", 2, coordinator=f"127.0.0.1:{port}")
        first, second = group.wait(SECONDS)
    assert (first.status, first.err.count("\n")) == (2, 1)
    assert first.err.startswith("error: --coordinator: expected a free port of this machine"), first.err
    assert second.status == 2
    assert "found somebody who does not answer as it does" in second.err


def test_processes_with_different_numbers_of_devices(place: Place, unbroken: Path) -> None:
    coordinator, started = f"127.0.0.1:{processes.free_port()}", []
    for process, devices in enumerate("12"):
        flags = (f"--coordinator={coordinator}", "--processes=2", f"--process={process}", "--workdir=run")
        started.append(place.start(f"run.{process}", *flags, JAX_NUM_CPU_DEVICES=devices))
    together.succeeded(Group(place, "run", started).wait())
    assert processes.bits(place.work / "run") == processes.bits(unbroken)


def test_a_stopped_run_goes_on_with_any_number_of_processes(place: Place, unbroken: Path) -> None:
    together.succeeded(together.run(place, "run", 2, "--config.num_epochs=2"))
    shutil.copytree(place.work / "run", place.work / "more")
    alone = place.run("run")
    assert alone.returncode == 0, alone.stderr
    assert "its bits may differ" not in alone.stdout
    assert processes.bits(place.work / "run") == processes.bits(unbroken)
    together.succeeded(together.run(place, "more", 2))
    assert processes.bits(place.work / "more") == processes.bits(unbroken)
    before = processes.content(place.work / "more")
    again = together.run(place, "more", 2)
    together.succeeded(again)
    assert "finished already" in again[0].out
    assert processes.content(place.work / "more") == before


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (("--config.seed=7",), "config.seed: '0' here, '7' there"),
        (("--config.train.label_smoothing=0.1",), "config.train.label_smoothing: '0.0' here, '0.1' there"),
        (("--config.dataset.archives={other}", "--config.dataset.data_dir={other}/data"), "data: "),
    ],
)
def test_another_configuration_or_other_data_are_refused(
    place: Place, own: tuple[str, ...], found: str
) -> None:
    other = idx_files.write_set(place.work / "other", idx_files.digits(399, 200))
    each = ((), tuple(word.format(other=other) for word in own))
    ended = together.start(place, "run", 2, each=each).wait()
    assert [one.status for one in ended] == [2, 2], ended
    (said,) = {one.err for one in ended}
    assert said.startswith(f"error: process 1: expected what process 0 has, found another {found}"), said
    assert said.count("\n") == 1
    assert not (place.work / "run" / "checkpoints").exists()


def test_other_code_is_refused(place: Place) -> None:
    copy = place.work / "copy"
    shutil.copytree(ROOT / "mmids_cnn", copy / "mmids_cnn", ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "mmids_cnn" / "keys.py", "a") as file:
        file.write("# another version\n")
    coordinator = f"127.0.0.1:{processes.free_port()}"
    flags = (f"--coordinator={coordinator}", "--processes=2")
    first = place.start("run.0", *flags, "--process=0", "--workdir=run")
    second = place.start("run.1", *flags, "--process=1", "--workdir=run", PYTHONPATH=str(copy))
    assert [first.wait(timeout=120), second.wait(timeout=120)] == [2, 2]
    (said,) = {place.output(name)[1] for name in ("run.0", "run.1")}
    assert said.startswith("error: process 1: expected what process 0 has, found another code: '"), said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("--config.batch_size=8",),
            "--processes: expected a divisor of 1, the pieces that a batch of config.batch_size is cut into, "
            "got 2; start fewer, or change --config.batch_size or --config.train.groups",
        ),
        (
            ("--config=whole.py",),
            "--processes: expected 1 for 'whole:Whole', which looks at all examples of a "
            "batch at once, got 2; leave --coordinator, --processes and --process out",
        ),
        (
            (f"--config={ROOT}/experiments/sweep.py",),
            "--processes: expected one experiment, got a sweep, which several machines share by "
            "--config.sweep.executor=ray; leave out --coordinator, --processes and --process",
        ),
        (
            ("--config.dataset.archives=nowhere",),
            "dataset.archives: expected a folder of IDX archives, found none at nowhere; set "
            "--config.dataset.archives to the folder that holds them",
        ),
    ],
)
def test_what_cannot_be_trained_together(place: Place, overrides: tuple[str, ...], said: str) -> None:
    (place.work / "whole.py").write_text(OWN)
    ended = together.run(place, "run", 2, *overrides)
    assert [one.status for one in ended] == [2, 2], ended
    for one in ended:
        assert one.err.count("\n") == 1
        assert one.err.removeprefix("error: ").removeprefix("process 0: ") == f"{said}\n"


def test_slurm_is_found(place: Place, unbroken: Path) -> None:
    """Two tasks of a job step, as `srun` starts them: nothing is said on the command line."""
    started = []
    for process in range(2):
        task = {
            "SLURM_JOB_ID": str(10_000 + os.getpid() % 20_000),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(process),
            "SLURM_LOCALID": str(process),
        }
        started.append(place.start(f"run.{process}", "--workdir=run", **task))
    together.succeeded(Group(place, "run", started).wait())
    assert processes.bits(place.work / "run") == processes.bits(unbroken)
