"""`export`: files that others run with the same answers, a card of what is recorded, and what it refuses."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import reference
from safetensors import safe_open

import mmids_cnn
from mmids_cnn import data, score
from mmids_cnn.deploy import reader
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import trained
from mmids_cnn.storage import files
from tests.support import processes, sweeping
from tests.support.processes import Place
from tests.support.suite import ROOT, CommandLine

NORM = (
    *("--config.model.name=norm_net", "--config.model.channels=4,6", "--config.model.depths=1,1"),
    *("--config.train.average_decay=0.9", "--config.model.dropout=0.1", "--config.seed=1"),
)
OWN = ("--config.model.name=experiments.own_network:ResNet", "--config.model.width=4")


def exported(place: Place, *arguments: str) -> str:
    """What the command says, which has to succeed."""
    command = [sys.executable, "-m", "mmids_cnn.export", *arguments]
    done = place.forking.run(command, place.work, place.environment(PYTHONPATH=str(ROOT)))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def by_jax(workdir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All test images, their labels, and the logits of a run."""
    experiment = run_folder.experiment(workdir)
    dataset = data.load(experiment.dataset)
    found = trained.load(workdir, experiment, dataset, "newest", pytest.fail)
    test = dataset.splits["test"]
    return test.images, np.asarray(test.labels), score.logits(found.network, found.variables, test.images)


def metadata(path: Path) -> dict[str, str]:
    return {one.key: one.value for one in onnx.load(path).metadata_props}


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        pytest.param("conv", (), id="conv_net"),
        pytest.param("norm", NORM, id="norm_net", marks=pytest.mark.soak),
        pytest.param("own", OWN, id="own", marks=pytest.mark.soak),
    ],
)
def test_others_give_the_same_answers_on_all_test_images(
    place: Place, name: str, overrides: tuple[str, ...]
) -> None:
    words = place.command(name, "--config.num_epochs=1", *overrides)
    words = [word for word in words if name != "own" or "channels" not in word]  # it has none
    done = place.forking.run(words, place.work, place.environment(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    shown = exported(place, f"--workdir={name}")
    folder, (images, labels, expected) = place.work / name / "export", by_jax(place.work / name)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.safetensors", "MODEL_CARD.md"}
    assert "the same class for 200 of 200 test images, logits at most " in shown
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    session: Any = onnxruntime.InferenceSession(folder / "model.onnx")
    by_reference: Any = reference.ReferenceEvaluator(str(folder / "model.onnx"))
    for call in (session.run, by_reference.run):
        logits, probabilities = call(["logits", "probabilities"], {"images": images})
        assert np.abs(logits - expected).max() < 1e-4
        assert (logits.argmax(1) == expected.argmax(1)).all()
        assert probabilities == pytest.approx(softmax(expected), abs=1e-5)
    about, result = metadata(folder / "model.onnx"), files.read_sealed(place.work / name / "result.json")
    accuracy = float(np.mean(expected.argmax(1) == labels))
    assert float(about["accuracy"]) == pytest.approx(accuracy)
    assert accuracy == pytest.approx(result["test/accuracy"])
    assert (about["split"], about["count"], about["mmids_cnn"]) == ("test", "200", mmids_cnn.__version__)
    assert about["parity_by"].startswith("onnxruntime ") and about["parity_agreement"] == "200 of 200"
    assert float(about["parity_largest_difference_of_logits"]) < 1e-4
    assert json.loads(about["class_names"])[9] == "Ankle boot"
    if name != "norm":  # whose result is of the weights and of their average
        assert about["fingerprint"] == result["fingerprint"]
    with safe_open(folder / "model.safetensors", "np") as opened:
        shared = about.keys() & opened.metadata().keys()
        assert len(shared) == 10 and all(opened.metadata()[key] == about[key] for key in shared)
    tensors, texts = reader.read(str(folder / "model.safetensors"))
    if name != "own":
        found = reader.logits(tensors, json.loads(texts["networks"])[0], images)
        assert np.abs(found - expected).max() < 1e-4


def test_card_says_what_is_recorded(place: Place, unbroken: Path) -> None:
    shutil.copytree(unbroken, place.work / "it")
    exported(place, "--workdir=it")
    folder = place.work / "it" / "export"
    card, result = (folder / "MODEL_CARD.md").read_text(), files.read_sealed(unbroken / "result.json")
    assert "# conv_net on fashion_mnist\n" in card and "of it, a finished run.\n" in card
    for name in ("model.onnx", "model.safetensors"):
        content = (folder / name).read_bytes()
        row = f"| `{name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |"
        assert row in card
    right = round(200 * result["test/accuracy"])
    assert f"| these weights | {right / 2:.2f} % | {right} | " in card
    assert f"{200 - right} of 200 images are taken for another class" in card
    _, labels, logits = by_jax(unbroken)
    rows = re.findall(r"^\| (\d), [^|]+ \| (\d), [^|]+ \| (\d+) \| (\d+) \|$", card, re.M)
    assert rows and [int(row[2]) for row in rows] == sorted([int(row[2]) for row in rows], reverse=True)
    for label, said, times, count in (map(int, row) for row in rows):
        assert ((labels == label) & (logits.argmax(1) == said)).sum() == times
        assert (labels == label).sum() == count
    provenance = files.read_sealed(unbroken / "provenance.json")
    assert f"--config.num_epochs={processes.EPOCHS} --config.batch_size=32 " in card
    assert "```sh\npython -m mmids_cnn.main --config=" in card
    assert provenance["dataset"]["fingerprint"] in card and result["fingerprint"] in card
    assert "| `batch_size` | `128` | `32` |" in card and "`dataset.data_dir`" not in card
    assert "Data: that of the data set." in card  # archives of one's own
    assert "photographs" in card and "unfinished" not in card


def test_unfinished_run_is_said_to_be_one(place: Place, unbroken: Path) -> None:
    shutil.copytree(unbroken, place.work / "it")
    (place.work / "it" / "result.json").unlink()
    exported(place, "--workdir=it", "--format=safetensors", "--to=else/where")
    folder = place.work / "else" / "where"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "MODEL_CARD.md"}
    total = processes.EPOCHS * 13
    assert (
        f"of it, **an unfinished run**, which was to take {total} steps."
        in (folder / "MODEL_CARD.md").read_text()
    )


def test_checkpoint_before_the_end(place: Place, unbroken: Path) -> None:
    steps = files.numbered(unbroken / "checkpoints")
    (place.work / "early").mkdir()
    for name in ("MODEL_CARD.md", "model.onnx"):  # of other weights
        (place.work / "early" / name).write_text("of another step")
    exported(place, f"--workdir={unbroken}", f"--checkpoint={steps[0]}", "--to=early", "--format=safetensors")
    assert not (place.work / "early" / "model.onnx").exists()
    card = (place.work / "early" / "MODEL_CARD.md").read_text()
    assert f"parameters after step {steps[0]} of " in card
    assert f"a checkpoint before its end after step {steps[-1]}." in card


@pytest.mark.soak
def test_several_runs_as_one(place: Place, unbroken: Path) -> None:
    assert place.run("norm", "--config.num_epochs=1", *NORM).returncode == 0
    exported(place, "--workdir=norm", f"--workdir={unbroken}")
    folder, images = place.work / "norm" / "export", by_jax(unbroken)[0]
    expected = np.mean([softmax(by_jax(one)[2]) for one in (place.work / "norm", unbroken)], 0)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    assert probabilities == pytest.approx(expected, abs=1e-5)
    assert softmax(logits) == pytest.approx(expected, abs=1e-5)
    assert reader.probabilities(*reader.read(str(folder / "model.safetensors")), images) == pytest.approx(
        expected, abs=1e-5
    )
    card = (folder / "MODEL_CARD.md").read_text()
    assert "# conv_net, norm_net on fashion_mnist\n" in card and "| all together |" in card
    assert len(metadata(folder / "model.onnx")["fingerprint"].split(", ")) == 2


@pytest.mark.soak
def test_sweep_is_exported_as_an_ensemble_and_drawn_for(tmp_path: Path, command_line: CommandLine) -> None:
    archives = sweeping.write_archives(tmp_path / "digits")
    leaves: dict[str, Any] = {"sweep__space__optimizer__learning_rate": "", "num_epochs": 1}
    sweeping.run(sweeping.make(archives, **leaves), tmp_path / "it")
    done = command_line("export", f"--workdir={tmp_path / 'it'}")
    assert (done.returncode, done.stderr) == (0, "")
    best = files.read_sealed(tmp_path / "it" / "best.json")["confirmed"]["winner"]["seeds"]
    about = metadata(tmp_path / "it" / "export" / "model.onnx")
    assert about["fingerprint"].split(", ") == [one["fingerprint"] for one in best]
    card = (tmp_path / "it" / "export" / "MODEL_CARD.md").read_text()
    assert "2 networks, the mean of their probabilities: " in card and "seed 0, 1: that of" in card
    done = command_line("draw", f"--workdir={tmp_path / 'it'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"wrote .*it/draw\.html, \d+ kB, 1 checkpoint of .*it, seed 0\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--workdir=nowhere"],
            "--workdir: expected a run folder with a config.json, found none in nowhere; ",
        ),
        (["--workdir=it", "--format=tflite"], "--format: expected some of onnx, safetensors with commas "),
        (["--workdir=it", "--format="], "--format: expected some of onnx, safetensors with commas between, "),
        (["--workdir=it", "--checkpoint=7"], "--checkpoint: expected newest, best or one of the steps "),
        (["--workdir=it", "--to=/proc/x"], "--to: expected a folder that can be written, found /proc"),
        (["--workdir=it", "--to=it/result.json"], "--to: expected a folder that can be written, found it/re"),
        (["--workdir=it", "--workdir=it"], "--workdir: expected different folders, got it twice; name it"),
        (["--workdir=it", "--to="], "--to: expected a folder, got none; name one, '.' is the working dir"),
        (["--workdir=torn"], "torn/result.json: expected what was written, found a damaged file; "),
        (["--workdir=it", "--workdir=bare"], "bare: expected checkpoints, found none; train it first"),
    ],
)
def test_mistakes_are_one_line_without_jax(
    place: Place, unbroken: Path, arguments: list[str], message: str
) -> None:
    shutil.copytree(unbroken, place.work / "it")
    shutil.copytree(unbroken, place.work / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(unbroken, place.work / "torn")
    (place.work / "torn" / "result.json").write_text("{")
    (place.work / "no_jax").mkdir()
    (place.work / "no_jax" / "jax.py").write_text("raise SystemExit('JAX was imported')")
    command = [sys.executable, "-m", "mmids_cnn.export", *arguments]
    path = os.pathsep.join([str(place.work / "no_jax"), str(ROOT)])
    done = place.forking.run(command, place.work, place.environment(PYTHONPATH=path))
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")
    assert not (place.work / "it" / "export").exists()


def test_missing_package_is_named(place: Place, unbroken: Path) -> None:
    shutil.copytree(unbroken, place.work / "it")
    code = "import runpy, sys\nsys.modules['onnx'] = None\n"
    code += "runpy.run_module('mmids_cnn.export', run_name='__main__')"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "--workdir=it", *arguments],
            cwd=place.work,
            env=place.environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )

    done = run()
    assert done.stderr == (
        "error: --format: expected the package onnx, found none; pip install 'mmids_cnn[export]', or give "
        "--format=safetensors\n"
    )
    assert done.returncode == 2
    done = run("--format=safetensors")
    assert (done.returncode, done.stderr) == (0, "")


def test_damaged_sweep_is_refused(tmp_path: Path, command_line: CommandLine) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "sweep.json").write_text("{}")
    done = command_line("export", f"--workdir={tmp_path / 'it'}")
    assert (
        done.returncode == 2 and "expected a finished sweep, found one that is not, or damaged" in done.stderr
    )


def test_help_comes_at_once() -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mmids_cnn.export", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--format: Files to write, of onnx, safetensors." in done.stdout
    assert not re.search(r"\| +(jax|onnx|onnxruntime)$", done.stderr, re.M)
    assert time.perf_counter() - started < 5
