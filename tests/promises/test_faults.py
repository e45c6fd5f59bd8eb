"""Full disks, read-only folders, two runs at once, numbers that break down: one line, and nothing is lost."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.errors import DataError, FaultError, RunError
from mmids_cnn.storage import checkpoints, digests, files
from tests.support import processes
from tests.support.processes import Place, bits, mounted, steps, until

FULL = "No space left on device; free some space, then give the same command again"


def one_line(text: str, pattern: str) -> None:
    assert re.fullmatch(f"error: {pattern}\n", text), text


@pytest.mark.parametrize("kilobytes", [100, 250, 600])
def test_disk_full_while_preparing(place: Place, unbroken: Path, kilobytes: int) -> None:
    """Too little for the first ArrayRecord, for the second, for the arrays."""
    folder = place.work / "small"
    with mounted(folder, f"size={kilobytes}k"):
        done = place.run("run", TFDS_DATA_DIR=str(folder))
        assert done.returncode == 1
        one_line(done.stderr, rf"preparing fashion_mnist in {folder}: {FULL}")
        assert "damaged" not in done.stdout
        if kilobytes == 250:
            subprocess.run(["mount", "-o", "remount,size=3m", str(folder)], check=True)
            assert place.run("run", TFDS_DATA_DIR=str(folder)).returncode == 0
            assert bits(place.work / "run") == bits(unbroken)


def test_disk_full_while_saving(place: Place, unbroken: Path) -> None:
    """Too little for the first checkpoint, then for the second."""
    workdir = place.work / "run"
    with mounted(workdir, "size=200k"):
        for saved in (False, True):
            done = place.run("run")
            assert done.returncode == 1
            one_line(
                done.stderr, rf"saving to run/checkpoints \(the checkpoints before it are whole\): {FULL}"
            )
            kept = steps(workdir)
            assert bool(kept) == saved
            size = "9m" if saved else "600k"
            subprocess.run(["mount", "-o", f"remount,size={size}", str(workdir)], check=True)
        done = place.run("run")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"going on from step {kept[-1]} of run" in done.stdout
        assert bits(workdir) == bits(unbroken)


def test_disk_full_from_the_start(place: Place) -> None:
    folder = place.work / "full"
    with mounted(folder, "size=64k"):
        with contextlib.suppress(OSError), open(folder / "filling", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        for name in ("full", "full/run"):
            done = place.run(name)
            assert done.returncode == 1
            one_line(done.stderr, f"[^;]*{name}[^;]*: {FULL}")


def test_finished_run_on_a_disk_that_is_read_only(place: Place, unbroken: Path) -> None:
    folder = place.work / "run"
    with mounted(folder, "size=9m"):
        shutil.copytree(unbroken, folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        done = place.run("run")
        assert (done.returncode, done.stderr) == (0, "")
        assert "run: finished already; its result:" in done.stdout
        done = place.run("run", "--config.num_epochs=5")
        assert done.returncode == 2
        one_line(done.stderr, "workdir: expected a folder that can be written, found run; .*")


@pytest.mark.parametrize(
    ("to", "lines", "notes"),
    [
        ("| head -1", 1, ""),
        ("> /dev/full", 0, "note: standard output cannot be written: No space left on device\n"),
    ],
)
def test_output_that_cannot_be_written(place: Place, unbroken: Path, to: str, lines: int, notes: str) -> None:
    """A reader that goes away, a full disk: the run is not harmed."""
    command = " ".join(map(shlex.quote, place.command("run", "--progress=plain")))
    line = f"set -o pipefail; {command} {to}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=place.work,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, notes, lines)
    assert bits(place.work / "run") == bits(unbroken)


@pytest.mark.parametrize("module", ["evaluate", "predict", "reproduce", "draw"])
def test_answer_that_cannot_be_written(place: Place, unbroken: Path, module: str) -> None:
    """It is nowhere else, unlike what a run shows."""
    processes.fresh(unbroken, place.work / "run")
    index = ["--test_index=0"] if module == "predict" else []
    command = place.command("run", *index, module=module)
    done = place.forking.start(
        command, place.work, place.environment(), Path("/dev/full"), place.work / "err"
    )
    assert done.wait(60) == 1
    note, error = (place.work / "err").read_text().splitlines()
    assert note == "note: standard output cannot be written: No space left on device"
    one_line(error + "\n", "standard output: expected that it can be written; .*")


@pytest.mark.parametrize(
    "arguments", ["evaluate --workdir=run", "predict --workdir=run --test_index=0", "main --help"]
)
def test_standard_output_that_is_closed(place: Place, unbroken: Path, arguments: str) -> None:
    processes.fresh(unbroken, place.work / "run")
    module, *words = arguments.split()
    code = (
        "import os, runpy, sys; os.close(1); sys.stdout = None; "  # as Python has it then
        f"runpy.run_module('mmids_cnn.{module}', run_name='__main__', alter_sys=True)"
    )
    done = place.forking(place.work, *words, code=code, environment=place.environment())
    assert done.returncode == 1
    note, error = done.stderr.splitlines()
    assert note == "note: standard output cannot be written: Bad file descriptor"
    one_line(error + "\n", "standard output: expected that it can be written; .*")


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_checkpoint_that_is_passed_over_is_named(place: Place, unbroken: Path, module: str) -> None:
    workdir = processes.fresh(unbroken, place.work / "run")
    newest, before = steps(workdir)[-1], steps(workdir)[-2]
    (workdir / "checkpoints" / str(newest) / "state" / "manifest.ocdbt").unlink()
    done = place.run("run", *(["--test_index=0"] if module == "predict" else []), module=module)
    assert done.returncode == 0
    assert re.fullmatch(f"note: skipped run/checkpoints/{newest}: expected .*, found.*\n", done.stderr)
    assert f"parameters after step {before} of run" in done.stdout


def test_file_that_may_not_grow(place: Place, unbroken: Path) -> None:
    """The same for those who are not root: a limit on the size of a file stands for the full disk."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, resource.RLIM_INFINITY)); "
    code = limit + "import runpy; runpy.run_module('mmids_cnn.main', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, *place.command("run")[3:]],
        cwd=place.work,
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    one_line(done.stderr, r"saving to run/checkpoints \(.*\): File too large; raise the limit .*")
    done = place.run("run")
    assert (done.returncode, done.stderr) == (0, "")
    assert bits(place.work / "run") == bits(unbroken)


def test_disk_full_while_logging(place: Place) -> None:
    """Rows come fast and checkpoints never, so that the rows alone fill the disk."""
    often = [
        "--config.eval.every_seconds=0.0001",
        "--config.checkpoint.every_epochs=0",
        "--config.num_epochs=999",
    ]
    workdir = place.work / "run"
    with mounted(workdir, "size=40k"):
        done = place.run("run", *often)
        assert done.returncode == 1
        one_line(done.stderr, f"writing to run: {FULL}")
        assert (workdir / "config.json").stat().st_size


def test_folder_that_becomes_read_only(place: Place, unbroken: Path) -> None:
    workdir = place.work / "run"
    process = place.start("run")
    assert until(process, lambda: steps(workdir) != [])
    with mounted(workdir / "checkpoints", "size=1m,ro"):
        assert process.wait(timeout=60) == 1
    one_line(place.output("run")[1], r"saving to run/checkpoints \(.*\): Read-only file system .*")
    done = place.run("run")
    assert (done.returncode, done.stderr) == (0, "")
    assert bits(workdir) == bits(unbroken)


def test_two_runs_in_one_folder(place: Place, unbroken: Path) -> None:
    """The second is refused and told who holds the folder; when that one is killed its lock is free."""
    workdir = processes.fresh(unbroken, place.work / "run")
    (workdir / "result.json").unlink()
    hold = "import sys, time; from pathlib import Path; from mmids_cnn.storage import files\n"
    hold += "with files.lock(Path('run/.lock')): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], cwd=place.work, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        before = processes.content(workdir)
        done = place.run("run")
        assert done.returncode == 2
        one_line(
            done.stderr, rf"run: expected no other run here, found process {holder.pid} on .* at work; .*"
        )
        assert processes.content(workdir) == before
        holder.kill()
    assert place.run("run").returncode == 0
    assert bits(workdir) == bits(unbroken)


@pytest.mark.parametrize("holder", [b"\xff\xfe", b"", b"\x00" * 9])
def test_lock_of_a_holder_whose_name_is_damaged(tmp_path: Path, holder: bytes) -> None:
    with files.lock(tmp_path / "lock"):
        (tmp_path / "lock").write_bytes(holder)
        with (
            pytest.raises(RunError, match=r"expected no other run here, found .* at work"),
            files.lock(tmp_path / "lock"),
        ):
            pass


def test_lock_is_held_until_the_process_ends(tmp_path: Path) -> None:
    with files.lock(tmp_path / "lock"), pytest.raises(RunError), files.lock(tmp_path / "lock"):
        pass
    with files.lock(tmp_path / "lock"):
        (name,) = (tmp_path / "lock").read_text().splitlines()  # of the last holder alone
        assert name.startswith(f"process {os.getpid()} on ")


def test_two_runs_prepare_the_same_data_once(place: Place, unbroken: Path) -> None:
    data_dir = str(place.work / "data")
    runs = [place.start(name, TFDS_DATA_DIR=data_dir) for name in ("one", "two")]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    shown = [place.output(name)[0] for name in ("one", "two")]
    assert sum("preparing fashion_mnist" in text for text in shown) == 1
    assert bits(place.work / "one") == bits(place.work / "two") == bits(unbroken)


def test_data_that_were_damaged_are_decoded_again(place: Place, unbroken: Path) -> None:
    data_dir = processes.fresh(place.root / "data", place.work / "data")
    (path,) = data_dir.glob("mmids_cnn/*/train_images.npy")
    for module in ("main", "evaluate", "predict"):
        content = bytearray(path.read_bytes())
        content[-1000] ^= 1
        path.write_bytes(content)
        picture = ["--test_index=0"] if module == "predict" else []
        done = place.run("run", *picture, module=module, TFDS_DATA_DIR=str(data_dir))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{path.parent} does not match its fingerprints: decoding again" in done.stdout.splitlines()
    assert bits(place.work / "run") == bits(unbroken)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.sampled_from(("archives", "data/idx_archives", "data/mmids_cnn")),
    kind=st.sampled_from(processes.DAMAGES),
    numbers=st.tuples(*[st.integers(0, 10**9)] * 3),
)
def test_damaged_data_are_refused_or_made_again(
    shared_root: Path, tmp_path: Path, where: str, kind: str, numbers: tuple[int, int, int]
) -> None:
    """Whatever is damaged of archives, ArrayRecord or cache: the right bits are loaded, or none are."""
    for name in ("archives", "data"):
        processes.fresh(shared_root / name, tmp_path / name)
    what = processes.damage(tmp_path / where, kind, numbers)
    if where != "data/mmids_cnn":  # where the cache is whole, nothing else is read
        shutil.rmtree(tmp_path / "data" / "mmids_cnn")
    try:
        found = data.load(settings_of(tmp_path))
    except DataError:
        assert where == "archives", what
    else:
        assert found.fingerprint == data.load(settings_of(shared_root)).fingerprint, what


def test_metadata_that_hide_examples(shared_root: Path, tmp_path: Path) -> None:
    """TFDS's metadata say how many examples there are, and have no checksum."""
    processes.fresh(shared_root / "archives", tmp_path / "archives")
    processes.fresh(shared_root / "data" / "idx_archives", tmp_path / "data" / "idx_archives")
    (path,) = tmp_path.glob("data/idx_archives/*/*/dataset_info.json")
    path.write_text(path.read_text().replace('"400"', '"300"'))
    (images, labels), _ = data.load(settings_of(tmp_path)).splits.values()
    assert (len(images), len(labels)) == (400, 400)


def settings_of(root: Path) -> config_lib.Dataset:
    config = base.get_config()
    config.dataset.name = "fashion_mnist"
    config.dataset.archives, config.dataset.data_dir = f"{root}/archives", f"{root}/data"
    return config_lib.resolve(config).dataset


def test_training_that_breaks_down(place: Place) -> None:
    """The first step makes parameters so large that the second cannot be; what is saved before is finite."""
    hot = ["--config.optimizer.learning_rate=1e30", "--config.checkpoint.every_seconds=0.001"]
    for _ in range(2):  # the same command stops at the same place
        done = place.run("run", *hot)
        assert done.returncode == 3
        one_line(
            done.stderr, r"training: expected finite .*, found others after step 1 \(epoch 1\); lower .*"
        )
    assert steps(place.work / "run") == [1]
    restored = checkpoints.restore(place.work / "run" / "checkpoints", 1)
    assert all(np.isfinite(array).all() for _, array in digests.leaves(restored.tree["params"]))


def test_torn_program_in_the_compilation_cache_is_compiled_anew(tmp_path: Path) -> None:
    code = f"""from mmids_cnn.devices import compilation
compilation.use_cache({str(tmp_path)!r})
import jax
print(jax.jit(lambda x: x + 1)(1.0))"""
    for torn in (False, True, False):
        for path in tmp_path.glob("*-cache") if torn else ():
            path.write_bytes(path.read_bytes()[:100])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "2.0\n"
        notes = done.stderr.splitlines()
        assert all(
            note.startswith("note: Error reading") and note.endswith("; compiled anew") for note in notes
        )
        assert bool(notes) == torn


def test_failure_of_another_library_is_traced_to_the_disk() -> None:
    assert files.cause(RuntimeError("write() failed: No space left on device; at 7")).errno == 28  # type: ignore[union-attr]
    assert files.cause(ValueError("odd")) is None
    assert files.cause(FileNotFoundError(2, "No such file or directory")) is None
    with (
        pytest.raises(FaultError, match=r"^doing: No space left on device \(f\); free some space"),
        files.faults("doing"),
    ):
        raise OSError(28, "No space left on device", "f")
