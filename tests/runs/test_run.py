"""Whole runs through the real commands, on a small set made of MNIST: what they write, show and refuse."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data, evaluate, model
from mmids_cnn.datasets import classes
from mmids_cnn.deploy import pictures, shifts
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import trained
from mmids_cnn.storage import checkpoints, files
from tests.support import forking, idx_files, processes
from tests.support.suite import undocumented

ROOT = Path(__file__).parents[2]
DIGITS = idx_files.digits(300, 100)
CLASSES = list(classes.KNOWN["fashion_mnist"])  # as the set calls itself here
DEVICES = int(os.environ["JAX_NUM_CPU_DEVICES"])
ARGUMENTS = [
    f"--config={ROOT}/experiments/base.py",
    "--config.dataset.name=fashion_mnist",
    "--config.dataset.archives=../archives",
    "--config.num_epochs=2",
    "--config.batch_size=64",
    "--config.model.channels=4,6",
    "--config.optimizer.learning_rate=0.01",
]
OTHER = ["--config.seed=1", "--config.dataset.validation_examples=60", "--workdir=other"]
RESULT_KEYS = [
    "step",
    "epoch",
    "test/loss",
    "test/accuracy",
    "test/count",
    "weights",
    "seconds/data",
    "seconds/compile",
    "seconds/train",
    "seconds/eval",
    "seconds/total",
    "images_per_second",
    "fingerprint",
    "sha256",
    "self",
]


class Runs(NamedTuple):
    """Three finished runs in `work`: `first` and `again` of one command, `other` of another seed."""

    root: Path
    work: Path
    shown: dict[str, str]
    no_jax: str
    warm: forking.Forking

    def command(self, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.warm.run(command(module, *arguments), self.work, environment_of(self.root, **environment))


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mmids_cnn.{module}", *arguments]


def environment_of(root: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "TFDS_DATA_DIR": str(root / "data"), "XDG_CACHE_HOME": str(root / "cache"), **extra}


def on_a_terminal(arguments: list[str], cwd: Path, environment: dict[str, str]) -> str:
    """Everything that a command shows on a pseudo-terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(arguments, cwd=cwd, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 2**16)
        except OSError:  # Linux says so when the other side has closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.fixture(scope="session")
def runs(common: Path, cache_home: Path, warm: forking.Forking) -> Runs:
    """Trained once for all workers of the test run."""
    root = common / "runs"
    work = root / "work"
    work.mkdir(parents=True, exist_ok=True)
    no_jax = root / "no_jax"
    with files.lock(root / ".lock", waiting=lambda holder: None):
        if not (root / "shown.json").exists():
            no_jax.mkdir()
            (root / "cache").symlink_to(cache_home)
            (no_jax / "jax.py").write_text("raise SystemExit('JAX was imported')")
            idx_files.write_set(root / "archives", DIGITS)
            new = Runs(root, work, {}, str(no_jax), warm)
            first = new.command("main", *ARGUMENTS, "--workdir=first")
            assert (first.returncode, first.stderr) == (0, "")
            again = on_a_terminal(
                command("main", *ARGUMENTS, "--workdir=again"),
                work,
                environment_of(root, TERM="xterm-256color", COLUMNS="100"),
            )
            other = new.command("main", *ARGUMENTS, *OTHER)
            assert (other.returncode, other.stderr) == (0, "")
            shown = {"first": first.stdout, "again": again, "other": other.stdout}
            (root / "shown.json").write_text(json.dumps(shown))
    return Runs(root, work, json.loads((root / "shown.json").read_text()), str(no_jax), warm)


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected_experiment(**leaves: Any) -> config_lib.Experiment:
    tree = base.get_config().to_dict()
    tree |= {"num_epochs": 2, "batch_size": 64}
    tree["dataset"] |= {"name": "fashion_mnist", "archives": "../archives"}
    tree["model"]["channels"] = (4, 6)
    tree["optimizer"]["learning_rate"] = 0.01
    return config_lib.resolve(tree | leaves)


def test_run_folder_holds_what_is_promised_and_no_more(runs: Runs) -> None:
    names = {"config.json", "provenance.json", "metrics.jsonl", "checkpoints", "result.json", "report.html"}
    assert {path.name for path in (runs.work / "first").iterdir()} - {".lock"} == names
    steps = {path.name for path in (runs.work / "first" / "checkpoints").iterdir()}
    assert steps == {"5", "10"}


def test_config_json_is_the_experiment(runs: Runs) -> None:
    """But for the archives, whose path is made absolute: the run can then be used from any folder."""
    found = read(runs.work / "first", "config.json")
    assert Path(found["dataset"]["archives"]).is_absolute()
    found["dataset"]["archives"] = expected_experiment().dataset.archives
    assert config_lib.resolve(found) == expected_experiment()
    assert read(runs.work / "other", "config.json")["seed"] == 1


def test_provenance(runs: Runs) -> None:
    found = read(runs.work / "first", "provenance.json")
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy"]
    commit, dirty = found.pop("git_commit"), found.pop("git_dirty")
    if (ROOT / ".git").exists():
        verify = ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}"]
        assert subprocess.run(verify, capture_output=True, text=True, check=True).stdout == f"{commit}\n"
        assert dirty in (True, False)
    else:
        assert (commit, dirty) == (None, None)
    assert re.fullmatch(r"[0-9a-f]{64}", found["dataset"].pop("fingerprint"))
    assert found["device"].pop("kind") and found.pop("self")
    assert found.pop("jax")["jax_enable_x64"] is False
    assert found == {
        "command": command("main", *ARGUMENTS, "--workdir=first"),
        "mmids_cnn": importlib.metadata.version("mmids_cnn"),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "device": {"platform": "cpu", "count": DEVICES, "cores": len(os.sched_getaffinity(0))},
        "processes": 1,
        "xla_flags": "--xla_gpu_deterministic_ops=true",
        "dataset": {
            "name": "fashion_mnist",
            "examples": {"train": 300, "test": 100},
            "image_shape": [28, 28, 1],
            "num_classes": 10,
        },
        "seed": 0,
        "sources": {},
    }


@pytest.mark.parametrize(
    ("name", "counts", "per_epoch"),
    [
        ("first", {"train": 300, "test": 100}, 5),
        ("other", {"train": 240, "validation": 60, "test": 100}, 4),
    ],
)
def test_metrics(runs: Runs, name: str, counts: dict[str, int], per_epoch: int) -> None:
    found = rows(runs.work / name)
    assert [row["step"] for row in found] == [0, per_epoch, 2 * per_epoch]
    assert [row["epoch"] for row in found] == [0, 1, 2]
    assert sorted(row["seconds"] for row in found) == [row["seconds"] for row in found]
    for row in found:
        splits = [split for split in counts if split != "train" or row["step"]]
        keys = {f"{split}/{what}" for split in splits for what in ("loss", "accuracy", "count")}
        assert set(row) == {"step", "epoch", "seconds"} | keys
        for split in splits:
            assert row[f"{split}/count"] == counts[split]
            hits = row[f"{split}/accuracy"] * counts[split]
            assert hits == pytest.approx(round(hits), abs=1e-6)
            assert 0 <= hits <= counts[split]
    assert found[0]["test/loss"] == pytest.approx(math.log(10), abs=0.2)
    assert found[-1]["train/loss"] < found[1]["train/loss"] < math.log(10)


def test_result(runs: Runs) -> None:
    folder = runs.work / "first"
    found, last = read(folder, "result.json"), rows(folder)[-1]
    assert list(found) == RESULT_KEYS
    assert (found["step"], found["epoch"], found["weights"]) == (10, 2, "last")
    for key in ("test/loss", "test/accuracy", "test/count"):
        assert found[key] == last[key]
    phases = ("data", "compile", "train", "eval")
    assert all(found[f"seconds/{phase}"] > 0 for phase in phases)
    assert sum(found[f"seconds/{phase}"] for phase in phases) < found["seconds/total"]
    assert found["images_per_second"] == pytest.approx(600 / found["seconds/train"])
    assert last["seconds"] <= found["seconds/total"]
    other = read(runs.work / "other", "result.json")
    assert set(other) == {*RESULT_KEYS, "validation/loss", "validation/accuracy", "validation/count"}


def test_fingerprint_is_of_the_parameters_and_their_paths(runs: Runs) -> None:
    """SHA-256 over a line for each leaf: its path and the SHA-256 of its dtype, shape and bytes."""
    params = checkpoints.restore(runs.work / "first" / "checkpoints", 10).tree["params"]
    lines = ""
    for layer in sorted(params):
        for name in sorted(params[layer]):
            array = np.asarray(params[layer][name])
            content = f"float32 {array.shape} ".encode() + array.astype("<f4").tobytes()
            lines += f"{layer}/{name} {hashlib.sha256(content).hexdigest()}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert read(runs.work / "first", "result.json")["fingerprint"] == expected


@pytest.mark.parametrize(
    ("name", "by", "sign"), [("first", "train/loss", -1), ("other", "validation/accuracy", 1)]
)
def test_best_checkpoint_is_never_chosen_by_the_test_split(runs: Runs, name: str, by: str, sign: int) -> None:
    folder = runs.work / name
    expected = {row["step"]: sign * row[by] for row in rows(folder)[1:]}
    saved = files.numbered(folder / "checkpoints")
    scores = {step: checkpoints.restore(folder / "checkpoints", step).meta["score"] for step in saved}
    assert scores == expected


def test_one_command_gives_the_same_bits_twice(runs: Runs) -> None:
    first, again, other = (read(runs.work / name, "result.json") for name in ("first", "again", "other"))
    assert first["fingerprint"] == again["fingerprint"] != other["fingerprint"]
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows(runs.work / name)]
        for name in ("first", "again", "other")
    ]
    assert timeless[0] == timeless[1]
    assert timeless[0][0]["test/loss"] != timeless[2][0]["test/loss"]  # other initial weights


def test_plain_lines_without_a_terminal(runs: Runs) -> None:
    shown = runs.shown["first"]
    assert "\x1b" not in shown
    assert "\r" not in shown
    lines = [line for line in shown.splitlines() if not line.startswith(("preparing ", "decoding "))]
    assert re.fullmatch(r"device: cpu \(.+, \d+ cores\).*", lines[0])
    assert re.fullmatch(
        r"data: fashion_mnist, 300 train, 100 test, 28x28x1, 10 classes, fingerprint [0-9a-f]{16}", lines[1]
    )
    parameters = 9 * 4 + 4 + 9 * 4 * 6 + 6 + 7 * 7 * 6 * 10 + 10
    assert re.search(rf"total .* {parameters:,} ", shown)
    assert "workdir: first, seed 0" in lines
    assert re.search(
        r"^ +step +epoch +seconds +train/loss +train/accuracy +test/loss +test/accuracy$", shown, re.M
    )
    assert re.search(r"^epoch 2/2  600/600 images", shown, re.M)
    result = read(runs.work / "first", "result.json")
    accuracy = f"test accuracy {100 * result['test/accuracy']:.2f} % of 100 images"
    assert lines[-5].startswith(accuracy)
    assert lines[-5].endswith("after 2 epochs, 10 steps")
    assert lines[-3] == f"parameters {result['fingerprint'][:16]}; everything is in first"
    assert lines[-2] == "report: first/report.html"
    assert lines[-1].startswith("next: python -m mmids_cnn.evaluate --workdir=first, or predict ")


def test_bar_on_a_terminal(runs: Runs) -> None:
    shown = runs.shown["again"]
    assert re.match(r"device: cpu \(", shown)  # the data were prepared before
    assert re.search(r"epoch 2/2.*━.*\d+ %", shown)
    assert "\x1b[?25l" in shown  # the cursor is hidden
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and comes back
    assert "600/600 images" not in shown
    assert "test accuracy" in shown


def test_same_command_on_a_finished_run_shows_its_result(runs: Runs) -> None:
    before = contents(runs.work / "first")
    for extra in (
        [],
        ["--config.checkpoint.keep=1", "--config.eval.every_seconds=9"],
    ):  # these change no bits
        done = runs.command("main", *ARGUMENTS, "--workdir=first", *extra, PYTHONPATH=runs.no_jax)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == "first: finished already; its result:"
        assert lines[1:] == runs.shown["first"].splitlines()[-5:]
    assert contents(runs.work / "first") == before


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (["--config.seed=7"], "config.seed: 0 there, 7 here"),
        (["--config.num_epochs=1"], "config.num_epochs: 2 there, 1 here"),
        (
            ["--config.seed=7", "--config.model.kernel_size=5", "--config.optimizer.name=sgd"],
            "config.seed: 0 there, 7 here; config.model.kernel_size: 3 there, 5 here; "
            "config.optimizer.name: 'adam' there, 'sgd' here",
        ),
    ],
)
def test_another_configuration_is_refused(runs: Runs, changes: list[str], fields: str) -> None:
    before = contents(runs.work / "first")
    done = runs.command("main", *ARGUMENTS, "--workdir=first", *changes, PYTHONPATH=runs.no_jax)
    assert done.stderr == (
        "error: first: expected a run of this configuration, found one that differs in "
        f"{fields}; give it another folder, such as --workdir=first-2\n"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert contents(runs.work / "first") == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seed": 0}', "\0"])
def test_damaged_configuration_is_named(runs: Runs, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    done = runs.command("evaluate", f"--workdir={tmp_path}", PYTHONPATH=runs.no_jax)
    assert done.stderr.startswith(
        f"error: {tmp_path}/config.json: expected a configuration, found a damaged "
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_damaged_records_are_written_anew(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.work / "first", tmp_path / "damaged")
    before = {name: read(folder, name) for name in ("config.json", "result.json")}
    table = (folder / "metrics.jsonl").read_text()
    (folder / "config.json").write_text("{")
    (folder / "result.json").write_text('{"epoch": 2}')
    (folder / "metrics.jsonl").write_text(table.replace("{", "[", 1))
    done = runs.command("main", *ARGUMENTS, f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert read(folder, "config.json") == before["config.json"]
    result = read(folder, "result.json")
    assert list(result) == RESULT_KEYS
    for key in ("step", "epoch", "test/loss", "test/accuracy", "test/count", "fingerprint"):
        assert result[key] == before["result.json"][key]
    assert (folder / "metrics.jsonl").read_text() == table


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.json", '"test/accuracy": 0.', '"test/accuracy": 0.9'),
        pytest.param("result.json", '"step": 10', '"step": 11', marks=pytest.mark.soak),
        pytest.param("config.json", '"seed": 0', '"seed": 1', marks=pytest.mark.soak),
        pytest.param("metrics.jsonl", '"step": 5', '"step": 6', marks=pytest.mark.soak),
        ("provenance.json", '"seed": 0', '"seed": 1'),
    ],
)
def test_a_character_that_changed_is_not_shown(
    runs: Runs, tmp_path: Path, name: str, old: str, new: str
) -> None:
    folder, before = tmp_path / "run", (runs.work / "first" / name).read_text()
    shutil.copytree(runs.work / "first", folder)
    assert old in before
    (folder / name).write_text(before.replace(old, new, 1))
    done = runs.command("reproduce", f"--workdir={folder}", PYTHONPATH=runs.no_jax)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {folder / name}: expected ") and "damaged file" in done.stderr
    done = runs.command("main", *ARGUMENTS, f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{folder / name}" in done.stdout and "anew" in done.stdout
    assert processes.timeless(read(folder, "result.json")) == processes.timeless(
        read(runs.work / "first", "result.json")
    )
    if name == "provenance.json":
        assert "writing it anew, with the command and the versions of now\n" in done.stdout
        assert read(folder, name)["seed"] == 0 and not run_folder.damaged(folder)
    elif name != "result.json":
        assert (folder / name).read_text() == before


def test_whole_configuration_of_another_run_is_not_taken(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.work / "first", tmp_path / "run")
    shutil.copy(runs.work / "other" / "config.json", folder)
    done = runs.command("reproduce", f"--workdir={folder}", PYTHONPATH=runs.no_jax)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {folder}/config.json: expected a configuration, found a damaged ")
    done = runs.command("main", *ARGUMENTS, f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{folder}/config.json: expected what was written, found a damaged file" in done.stdout
    assert (folder / "config.json").read_text() == (runs.work / "first" / "config.json").read_text()


def evaluated(shown: str) -> dict[str, str]:
    pattern = (
        r"(?P<split>\w+) accuracy (?P<accuracy>[\d.]+) % of (?P<count>\d+) images, loss (?P<loss>[\d.]+), "
        r"in [\d.]+ s; parameters after step (?P<step>\d+) of \w+"
    )
    match = re.fullmatch(pattern, shown.splitlines()[-1])
    assert match
    return match.groupdict()


@pytest.mark.parametrize(
    ("arguments", "split", "row"),
    [
        (["--workdir=first"], "test", 2),
        (["--workdir=first", "--checkpoint=5"], "test", 1),
        (["--workdir=other", "--split=validation", "--checkpoint=best"], "validation", None),
        (["--workdir=other", "--split=train"], "train", 2),
    ],
)
def test_evaluate(runs: Runs, arguments: list[str], split: str, row: int | None) -> None:
    done = runs.command("evaluate", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found, table = evaluated(done.stdout), rows(runs.work / arguments[0].partition("=")[2])
    if row is None:  # the best by validation accuracy, the first of equals
        row = max((1, 2), key=lambda index: table[index]["validation/accuracy"])
    assert (found["split"], found["step"]) == (split, str(table[row]["step"]))
    counts = {"train": 240, "validation": 60, "test": 100}
    assert int(found["count"]) == counts[split]
    if split != "train":  # that row holds the mean while training, not of the final parameters
        assert found["accuracy"] == f"{100 * table[row][f'{split}/accuracy']:.2f}"
        assert float(found["loss"]) == pytest.approx(table[row][f"{split}/loss"], abs=2e-4)
    labels = {
        "train": DIGITS["train", "labels"][:240],
        "validation": DIGITS["train", "labels"][240:],
        "test": DIGITS["test", "labels"],
    }[split]
    shown = re.findall(r"^│ (\d, \S[^│]*?) +│ +(\d+) │ +([\d.]+) % │", done.stdout, re.M)
    counts_by_class = [(f"{label}, {CLASSES[label]}", str(n)) for label, n in enumerate(np.bincount(labels))]
    assert [(name, count) for name, count, _ in shown] == counts_by_class
    hits = sum(round(int(count) * float(share) / 100) for _, count, share in shown)
    assert f"{100 * hits / counts[split]:.2f}" == found["accuracy"]


def test_evaluate_several_runs_as_one(runs: Runs) -> None:
    done = runs.command("evaluate", "--workdir=first", "--workdir=other", "--views=5")
    assert (done.returncode, done.stderr) == (0, "")
    framed = np.pad(DIGITS["test", "images"], ((0, 0), (1, 1), (1, 1)))
    views = [framed[:, i : i + 28, j : j + 28, None] for i, j in ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1))]
    each = []
    for name in ("first", "other"):
        experiment = run_folder.experiment(runs.work / name)
        found = trained.load(
            runs.work / name, experiment, data.load(experiment.dataset), "newest", pytest.fail
        )
        variables = jax.tree.map(jnp.asarray, found.variables)
        predict = [model.predict_proba(found.network, variables, jnp.asarray(x)) for x in views]
        each.append(np.mean(predict, 0, np.float64))
    labels, lines = DIGITS["test", "labels"], done.stdout.splitlines()[-3:]
    for line, probabilities in zip(lines, [*each, np.mean(each, 0)], strict=True):
        accuracy, loss = re.findall(r"accuracy ([\d.]+) % of 100 images, loss ([\d.]+)", line)[0]
        assert float(accuracy) == pytest.approx(100 * np.mean(probabilities.argmax(1) == labels))
        assert float(loss) == pytest.approx(-np.log(probabilities[np.arange(100), labels]).mean(), rel=1e-3)
    for line in lines:
        assert "each the mean of 5 views moved by at most a pixel" in line
    assert lines[-1].endswith("the mean of the probabilities of 2 networks")


def test_class_that_no_image_has_is_not_shown_as_wrong() -> None:
    (first, second) = evaluate._rows(np.array([[3, 1], [0, 0]]), ("a", "b"))
    assert (first[1:3], second[1:]) == (("4", "75.00 %"), ("0", "–", "-"))


def test_evaluate_as_objects(runs: Runs) -> None:
    words = runs.command("evaluate", "--workdir=first")
    done = runs.command("evaluate", "--workdir=first", "--workdir=other", "--json", "--shifts")
    assert (done.returncode, done.stderr) == (0, "")
    assert undocumented("evaluate", done.stdout) == set()
    first, other, both, *shifted = map(json.loads, done.stdout.splitlines())
    for one, workdirs in ((first, ["first"]), (other, ["other"]), (both, ["first", "other"])):
        assert one["workdirs"] == workdirs and one["split"] == "test" and one["count"] == 100
    assert (first["weights"], both["weights"]) == (["last"], ["last", "last"])
    assert (first["seeds"], other["seeds"], both["seeds"], both["steps"]) == ([0], [1], [0, 1], [10, 8])
    found = evaluated(words.stdout)
    assert f"{100 * first['accuracy']:.2f}" == found["accuracy"]
    assert first["loss"] == pytest.approx(float(found["loss"]), abs=1e-3)
    counts = np.array(both["confusion"])
    assert both["classes"] == CLASSES and np.trace(counts) / counts.sum() == pytest.approx(both["accuracy"])
    assert (counts.sum(1) == np.bincount(DIGITS["test", "labels"])).all()
    assert [one["shift"] for one in shifted] == [*shifts.SHIFTS]
    for one in shifted:
        assert len(one["accuracies"]) == 5 and one["workdirs"] == ["first", "other"]
    assert shifted[0]["accuracies"][0] > shifted[0]["accuracies"][4]  # one pixel and five


@pytest.mark.soak
def test_evaluate_on_other_data(runs: Runs, tmp_path: Path) -> None:
    flipped = {key: 255 - array if key[1] == "images" else array for key, array in DIGITS.items()}
    idx_files.write_set(tmp_path / "flipped", flipped)
    arguments = ("--workdir=first", f"--archives={tmp_path}/flipped", "--name=negatives", "--json")
    done = runs.command("evaluate", *arguments, f"--shifts_picture={tmp_path}/shifts.png")
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "shifts.png") as picture:
        assert picture.size == (6 * 28 * 3, 8 * 28 * 3)
    found = json.loads(done.stdout.splitlines()[0])
    experiment = run_folder.experiment(runs.work / "first")
    one = trained.load(runs.work / "first", experiment, data.load(experiment.dataset), "newest", pytest.fail)
    images = jnp.asarray(flipped["test", "images"][..., None])
    predicted = model.predict_proba(one.network, jax.tree.map(jnp.asarray, one.variables), images).argmax(1)
    assert found["accuracy"] == pytest.approx(float((predicted == flipped["test", "labels"]).mean()))
    assert found["count"] == 100 and found["classes"] == CLASSES
    done = runs.command("evaluate", *arguments, "--split=validation")
    said = "error: --split: expected train or test of other data, got 'validation'; change it\n"
    assert (done.returncode, done.stderr) == (2, said)
    small = {key: array[:, :20, :24] if key[1] == "images" else array for key, array in DIGITS.items()}
    idx_files.write_set(tmp_path / "small", small)
    done = runs.command("evaluate", "--workdir=first", f"--archives={tmp_path}/small")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "expected data as first was trained on, 28x28x1 and 10 classes, found 20x24x1" in done.stderr
    shutil.copytree(runs.work / "first", tmp_path / "clothes")
    with processes.rewritten(tmp_path / "clothes") as (config, _):
        config["dataset"] |= {"archives": str(tmp_path / "flipped"), "name": "kmnist"}
    done = runs.command("evaluate", "--workdir=first", f"--workdir={tmp_path}/clothes")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"expected the classes of first, {', '.join(CLASSES)}, found o, ki, " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split=validation"], "--split: expected one of train, test, got 'validation'; "),
        (["--split="], "--split: expected one of train, test, got ''; "),
        (["--checkpoint=7"], "--checkpoint: expected newest, best or one of the steps [5, 10], got '7'"),
        (
            ["--workdir=other", "--split=train"],
            "--split: expected the same train images in all runs, 300 as in first, found 240 in other; ",
        ),
        (
            ["--workdir=other/../first"],
            "--workdir: expected each folder once, found other/../first, which is first; leave one out",
        ),
    ],
)
def test_evaluate_what_is_not_there(runs: Runs, arguments: list[str], message: str) -> None:
    done = runs.command("evaluate", "--workdir=first", *arguments)
    assert done.stderr.startswith(f"error: {message}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("which", ["7", "-5", "0", "latest", "", "²", "5.0"])
def test_checkpoint_that_is_not_there(runs: Runs, which: str) -> None:
    workdir = runs.work / "first"
    experiment = run_folder.experiment(workdir)
    with pytest.raises(RunError) as caught:
        trained.load(workdir, experiment, data.load(experiment.dataset), which, pytest.fail)
    message = f"--checkpoint: expected newest, best or one of the steps [5, 10], got {which!r}"
    assert str(caught.value).startswith(message)


def test_predict(runs: Runs, tmp_path: Path) -> None:
    digit = DIGITS["test", "images"][3]
    Image.fromarray(digit).save(tmp_path / "digit.png")
    Image.fromarray(255 - digit).save(tmp_path / "dark on light.png")
    Image.fromarray(np.stack([digit] * 3, -1).repeat(9, 0).repeat(9, 1)).save(tmp_path / "large.jpg")
    paths = [str(tmp_path / name) for name in ("digit.png", "dark on light.png", "large.jpg")]
    done = runs.command(
        "predict", "--workdir=first", paths[0], "--test_index=3", *paths[1:], "--test_index=99"
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "parameters after step 10 of first"
    label = DIGITS["test", "labels"]
    named = [f"{label[i]}, {CLASSES[label[i]]}" for i in (3, 99)]
    expected = [f"test image 3 (label {named[0]})", f"test image 99 (label {named[1]})", *paths]
    assert [line.rpartition(": class ")[0] for line in lines[::2]] == expected
    for answer, probabilities in zip(lines[::2], lines[1::2], strict=True):
        pairs = re.findall(r"  ([^:]+): ([\d.]+)", probabilities)
        values = [float(value) for _, value in pairs]
        assert [name for name, _ in pairs] == CLASSES
        assert sum(values) == pytest.approx(1, abs=1e-3)
        said, name = re.findall(r": class (\d), (.*)$", answer)[0]
        assert values[int(said)] == max(values) and name == CLASSES[int(said)]
    assert lines[1] == lines[5] == lines[7]  # the same image, however it comes
    done = runs.command("predict", "--workdir=first", paths[0], "--test_index=3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert undocumented("predict", done.stdout) == set()
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["test_index"], first["label"], second["picture"]) == (3, label[3], paths[0])
    for one in (first, second):
        assert one["probabilities"][one["class"]] == max(one["probabilities"]) and one["step"] == 10
        assert one["name"] == CLASSES[one["class"]] and one["probabilities"] == first["probabilities"]


def test_predict_answers_for_all_but_the_bad_pictures(runs: Runs, tmp_path: Path) -> None:
    digit, white = DIGITS["test", "images"][3], np.full((28, 28), 255, np.uint8)
    Image.fromarray(digit).save(tmp_path / "digit.png")
    Image.fromarray(np.stack([white, white, white, digit], -1)).save(tmp_path / "ghost.png")
    (tmp_path / "bad.png").write_text("no picture")
    paths = [str(tmp_path / name) for name in ("bad.png", "ghost.png", "missing.png", "digit.png")]
    done = runs.command("predict", "--workdir=first", *paths)
    assert done.returncode == 2
    answered = [line.rpartition(": class ")[0] for line in done.stdout.splitlines() if ": class " in line]
    assert answered == [paths[1], paths[3]]
    note, *errors = done.stderr.splitlines()
    assert note.startswith(f"note: {paths[1]}: a blank picture, as transparent parts count as white; ")
    assert [line.partition(": expected ")[0] for line in errors] == [
        f"error: {paths[0]}",
        f"error: {paths[2]}",
    ]


def test_predict_many_and_what_it_sees(runs: Runs, tmp_path: Path) -> None:
    digits = DIGITS["test", "images"][:4]
    Image.fromarray(255 - np.hstack(list(digits)).repeat(9, 0).repeat(9, 1)).save(tmp_path / "row.png")
    Image.new("L", (90, 90), 200).save(tmp_path / "blank.png")
    row, blank, seen = (str(tmp_path / name) for name in ("row.png", "blank.png", "seen.png"))
    done = runs.command(
        "predict", "--workdir=first", "--many", f"--show={seen}", "--test_index=0", row, blank
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {blank}: expected digits, found none; ")
    names = [line.rpartition(": class ")[0] for line in done.stdout.splitlines()[:-1:2]]
    boxes = [re.fullmatch(rf"{re.escape(row)} (\d+),(\d+)-(\d+),(\d+)", name) for name in names[1:]]
    for index, box in enumerate(boxes):
        assert box
        left, top, right, bottom = map(int, box.groups())
        assert 252 * index <= left < right <= 252 * (index + 1) and 0 <= top < bottom <= 252
    picture = np.asarray(Image.open(seen))
    page, shown = picture[:252], picture[260:-8][4::8, 4::8]  # a pixel of each square
    assert (names[0], len(boxes), shown.shape) == ("test image 0 (label 7, Sneaker)", 4, (28, 5 * 29 - 1, 3))
    np.testing.assert_array_equal(shown[:, :28], np.repeat(digits[0][..., None], 3, -1))
    framed = (page[:, : 4 * 252] == pictures.FRAME).all(-1)
    for index, box in enumerate(boxes):
        assert box
        left, top, right, bottom = (int(side) for side in box.groups())
        assert framed[top:bottom, right].all() and framed[bottom, left:right].all()
        assert framed[:, 252 * index : 252 * (index + 1)].any()


def test_predict_many_is_for_one_channel(runs: Runs, tmp_path: Path) -> None:
    colours = {key: np.stack([one] * 3, -1) if key[1] == "images" else one for key, one in DIGITS.items()}
    idx_files.write_set(tmp_path / "archives", colours)
    shutil.copytree(runs.work / "first", tmp_path / "run")
    folders = {"archives": str(tmp_path / "archives"), "data_dir": str(tmp_path / "data")}
    with processes.rewritten(tmp_path / "run") as (config, _):
        config["dataset"] |= folders
    arguments = ("--many", "--test_index=0", f"--workdir={tmp_path / 'run'}")
    done = runs.command("predict", *arguments, PYTHONPATH=runs.no_jax)
    assert done.stderr == "error: --many: expected a network for 1 channel, found one for 3; leave it out\n"
    assert (done.returncode, done.stdout.count("class")) == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--show=seen.jpg", "a.png"],
            "--show: expected a name.png in a folder that can be written, got 'seen.jpg'\n",
        ),
        (
            ["--show=no/seen.png", "a.png"],
            "--show: expected a name.png in a folder that can be written, got 'no/se",
        ),
        (["--show=./a.png", "a.png"], "--show: expected a file of its own, got the picture ./a.png; name "),
        ([], "expected picture files or --test_index=0, got neither; name at least one\n"),
        (["--test_index=100"], "--test_index: expected 0 to 99, got 100"),
        (["--test_index=-1"], "--test_index: expected 0 to 99, got -1"),
        (["missing.png"], "missing.png: expected a picture file, found none\n"),
        (["first"], "first: expected a picture file, found a folder\n"),
        (["first/result.json"], "first/result.json: expected a picture ("),
    ],
)
def test_predict_what_is_not_there(runs: Runs, arguments: list[str], message: str) -> None:
    done = runs.command("predict", "--workdir=first", *arguments, PYTHONPATH=runs.no_jax)
    assert done.stderr.startswith(f"error: {message}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_predict_says_why_what_it_sees_cannot_be_written(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "seen.png").mkdir()
    show = f"--show={tmp_path / 'seen.png'}"
    done = runs.command("predict", "--workdir=first", "--test_index=0", show, PYTHONPATH=runs.no_jax)
    assert done.stderr.startswith("error: --show: Is a directory (")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_run_can_be_used_from_any_folder(runs: Runs, tmp_path: Path) -> None:
    """Its archives were named by a path that holds where it was trained."""
    done = subprocess.run(
        command("predict", f"--workdir={runs.work / 'first'}", "--test_index=0"),
        cwd=tmp_path,
        env=environment_of(runs.root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_data_that_changed_since_are_refused(runs: Runs, tmp_path: Path, module: str) -> None:
    shutil.copytree(runs.work / "first", tmp_path / "copy")
    labels = DIGITS["test", "labels"][::-1]
    idx_files.write_set(tmp_path / "others", DIGITS | {("test", "labels"): labels})
    with processes.rewritten(tmp_path / "copy") as (config, _):
        config["dataset"]["archives"] = str(tmp_path / "others")
    picture = ["--test_index=0"] if module == "predict" else []
    done = runs.command(module, f"--workdir={tmp_path / 'copy'}", *picture)
    assert re.match(r"error: .*expected the data .*fingerprint", done.stderr), done
    assert done.returncode == 2


def test_run_without_checkpoints(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.work / "first", tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    done = runs.command("evaluate", f"--workdir={tmp_path / 'bare'}")
    assert done.stderr == f"error: {tmp_path / 'bare'}: expected checkpoints, found none; train it first\n"
    assert done.returncode == 2


def test_compiled_programs_are_kept_where_the_cache_is(runs: Runs) -> None:
    assert any((runs.root / "cache" / "mmids_cnn" / "compiled").iterdir())


def test_another_run_at_work_is_not_disturbed(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    with files.lock(tmp_path / "busy" / ".lock"):
        done = runs.command("main", *ARGUMENTS, f"--workdir={tmp_path / 'busy'}")
    expected = f"error: {tmp_path / 'busy'}: expected no other run here, found process {os.getpid()} on "
    assert done.stderr.startswith(expected)
    assert done.returncode == 2
    assert [path.name for path in (tmp_path / "busy").iterdir()] == [".lock"]


def test_another_run_at_work_whose_lock_file_was_deleted(runs: Runs, tmp_path: Path) -> None:
    with files.lock(tmp_path / ".lock"):
        (tmp_path / ".lock").unlink()
        done = runs.command("main", *ARGUMENTS, f"--workdir={tmp_path}")
    assert "expected no other run here, found another process at work" in done.stderr
    assert done.returncode == 2


def test_summary_of_a_result(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no page of a run, as there is after `make run`
    result = read(runs.work / "first", "result.json") | {"seconds/total": 12.34, "test/accuracy": 0.98765}
    text = run_folder.summary(result | {"test/count": 10_000, "step": 4690, "epoch": 10.0}, Path("runs/base"))
    assert text.startswith("test accuracy 98.77 % of 10,000 images ")
    assert "after 10 epochs, 4,690 steps\n12.3 s: data " in text
    assert "; everything is in runs/base\nnext: python -m mmids_cnn.evaluate --workdir=runs/base, " in text
    text = run_folder.summary(result | {"step": 1, "epoch": 1.0}, Path("runs/base"))
    assert "after 1 epoch, 1 step\n" in text
