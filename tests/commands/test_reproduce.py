"""One command gives one result, to the bit, however it is watched, fed or saved; records are checked."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from tests.support import processes
from tests.support.processes import Place, bits


def same_in_the_end(workdir: Path, unbroken: Path) -> None:
    """State and result are those of the unbroken run; rows of metrics are, where both have one."""
    found, expected = bits(workdir), bits(unbroken)
    assert (found["state"], found["result"]) == (expected["state"], expected["result"])
    rows = {row["step"]: row for row in expected["rows"]}
    common = [row for row in found["rows"] if row["step"] in rows]
    assert len(common) >= 2
    assert common == [rows[row["step"]] for row in common]


@pytest.mark.parametrize(
    "overrides",
    [
        ["--config.dataset.placement=streamed", "--config.eval.every_epochs=3"],
        pytest.param(
            [
                "--config.eval.every_epochs=0",
                "--config.checkpoint.every_seconds=0.001",
                "--config.checkpoint.keep=9",
            ],
            marks=pytest.mark.soak,
        ),
    ],
    ids=["streamed", "saved often"],
)
def test_what_does_not_change_the_result(place: Place, unbroken: Path, overrides: list[str]) -> None:
    done = place.run("run", "--progress=none", *overrides)
    assert (done.returncode, done.stderr) == (0, "")
    same_in_the_end(place.work / "run", unbroken)


def test_scored_by_the_clock_it_has_the_same_result_and_is_run_again(place: Place, unbroken: Path) -> None:
    often = ["--config.eval.every_seconds=0.001", "--config.checkpoint.every_epochs=0"]
    done = place.run("run", "--progress=none", *often)
    assert (done.returncode, done.stderr) == (0, "")
    same_in_the_end(place.work / "run", unbroken)
    done = place.run("run", module="reproduce")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("identical: ")


def test_bar_on_a_terminal(place: Place, unbroken: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        place.command("run", "--progress=bar"),
        cwd=place.work,
        env=place.environment(TERM="xterm"),
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 2**16)
        except OSError:  # the other side has closed
            break
    os.close(leader)
    assert process.wait(timeout=60) == 0
    assert b"epoch 4/4" in shown and b"\x1b[?25l" in shown  # a bar was drawn
    assert bits(place.work / "run") == bits(unbroken)


def test_record_is_run_again(place: Place, unbroken: Path) -> None:
    processes.fresh(unbroken, place.work / "run")
    before = processes.content(place.work / "run")
    done = place.run("run", module="reproduce")
    assert (done.returncode, done.stderr) == (0, "")
    line = "identical: run-reproduced has the results, metrics and parameters of run, bit for bit"
    assert done.stdout.splitlines()[-1] == line
    assert processes.content(place.work / "run") == before
    assert bits(place.work / "run-reproduced") == bits(unbroken)
    done = place.run("run", module="reproduce")  # nothing would be run
    assert (done.returncode, done.stdout) == (2, "")
    expected = "error: --into: expected a folder without a finished run, got run-reproduced; name another\n"
    assert done.stderr == expected


def change(path: Path, name: str, value: object) -> None:
    """Changes one value of a JSON file, as if it had been written so."""
    content = files.read_sealed(path)
    target, _, leaf = name.rpartition(".")
    (content[target] if target else content)[leaf] = value
    files.write_sealed(path, content)


def change_rows(folder: Path, rows: str) -> None:
    """Replaces the rows of metrics of a finished run, as if they had been written so."""
    (folder / "metrics.jsonl").write_text(rows)
    run_folder.write_result(folder, files.read_sealed(folder / "result.json"))


def test_differences_are_named(place: Place, unbroken: Path) -> None:
    record = processes.fresh(unbroken, place.work / "run")
    change(record / "result.json", "test/accuracy", 0.5)
    change(record / "result.json", "fingerprint", "0" * 64)
    change(record / "result.json", "seconds/total", 9999.0)
    change(record / "provenance.json", "packages.numpy", "1.0")
    change(record / "provenance.json", "device.kind", "abacus")
    rows = (record / "metrics.jsonl").read_text()
    change_rows(record, rows.replace('"train/accuracy": 0', '"train/accuracy": 1', 1))
    done = place.run("run", module="reproduce")
    assert (done.returncode, done.stderr) == (1, "")
    different, setting = done.stdout.splitlines()[-2:]
    accuracy = json.loads((unbroken / "result.json").read_text())["test/accuracy"]
    assert different.startswith("different: fingerprint was 0000")
    assert f"; test/accuracy was 0.5, is {accuracy}; the rows of metrics.jsonl from step 13 on" in different
    assert "seconds" not in different
    assert "numpy was 1.0, is " in setting and "'kind': 'abacus'" in setting


@pytest.mark.soak
def test_setting_of_jax_is_named(place: Place, unbroken: Path) -> None:
    processes.fresh(unbroken, place.work / "run")
    done = place.run("run", module="reproduce", JAX_THREEFRY_PARTITIONABLE="0")
    assert (done.returncode, done.stderr) == (1, "")
    setting = "what else differs: jax_threefry_partitionable was True, is False"
    assert done.stdout.splitlines()[-1] == setting


def test_row_that_is_missing_is_a_difference(place: Place, unbroken: Path) -> None:
    record = processes.fresh(unbroken, place.work / "run")
    rows = (record / "metrics.jsonl").read_text().splitlines(keepends=True)
    change_rows(record, "".join(rows[:-1]))
    done = place.run("run", module="reproduce")
    assert done.returncode == 1
    assert "different: the rows of metrics.jsonl in their number" in done.stdout
    assert "what else differs: nothing that was recorded" in done.stdout


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("result.json", "--workdir: expected a finished run, "),
        ("config.json", "--workdir: expected a run folder "),
    ],
)
def test_record_that_is_not_complete(place: Place, unbroken: Path, missing: str, message: str) -> None:
    (processes.fresh(unbroken, place.work / "run") / missing).unlink()
    done = place.run("run", module="reproduce")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_into_itself(place: Place, unbroken: Path) -> None:
    processes.fresh(unbroken, place.work / "run")
    done = place.run("run", "--into=./run", module="reproduce")
    assert (done.returncode, done.stderr) == (
        2,
        "error: --into: expected a folder without a finished run, got run; name another\n",
    )


@pytest.mark.parametrize("name", ["result.json", "provenance.json"])
@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"dataset": null}'])
def test_damaged_record(place: Place, unbroken: Path, name: str, content: str) -> None:
    (processes.fresh(unbroken, place.work / "run") / name).write_text(content)
    done = place.run("run", module="reproduce")
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"error: run/{name}: expected what was written, found a damaged file; the command that trained"
    assert done.stderr == f"{expected} the run writes it anew\n"


def test_record_is_complete(unbroken: Path) -> None:
    record = json.loads((unbroken / "provenance.json").read_text())
    assert record.keys() >= {
        "command",
        "git_commit",
        "git_dirty",
        "python",
        "packages",
        "platform",
        "device",
        "seed",
    }
    assert record["jax"]["jax_threefry_partitionable"] is True
    assert not [name for name in record["jax"] if "cache" in name or "log" in name]
    assert record["packages"].keys() >= {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert record["dataset"]["examples"] == {"train": 400, "test": 200}
    config = json.loads((unbroken / "config.json").read_text())
    assert (config["num_epochs"], config["batch_size"], config["seed"]) == (4, 32, record["seed"])
