"""The house: which module may import which, what is imported before an answer, how many rooms there are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import layout
from tests.support.suite import ROOT


def test_arrows() -> None:
    assert layout.violations(layout.imports(ROOT)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("loop", "from mmids_cnn.console import terminal"),
        ("datasets.idx", "from mmids_cnn.runs import folder"),
        ("devices.mesh", "from mmids_cnn import train"),
        ("storage.files", "from mmids_cnn.config import Experiment"),
        ("pages.page", "import mmids_cnn.metrics"),
        ("score", "from mmids_cnn.storage import digests"),
        ("runs.session", "def late():\n    from mmids_cnn.populations import population"),
        ("populations.ledger", "from mmids_cnn.runs import folder"),
        ("deploy.pictures", "from mmids_cnn.sweeps import plan"),
        ("console.command", "from mmids_cnn.main import main"),
        ("runs.folder", "def late():\n    from mmids_cnn.runs import run"),
        ("sweeps.report", "import optuna"),
        ("train", "import orbax.checkpoint as ocp"),
        ("loop", "import importlib\nimportlib.import_module('mmids_cnn.runs.run')"),
        ("console.terminal", "from mmids_cnn.runs import folder"),
        ("populations.ledger", "from mmids_cnn.sweeps import plan"),
        ("networks.conv_net", "from mmids_cnn import train"),
        ("layers.tiles", "from mmids_cnn import metrics"),
    ],
)
def test_import_that_breaks_a_rule_is_named(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(
        ROOT / "mmids_cnn", tmp_path / "mmids_cnn", ignore=shutil.ignore_patterns("mnist", "*.pyc")
    )
    with open(tmp_path / "mmids_cnn" / f"{module.replace('.', '/')}.py", "a") as file:
        file.write(f"\n{line}\n")
    said = layout.violations(layout.imports(tmp_path))
    assert said and all(one.startswith((f"{module} imports ", "a circle: ")) for one in said)


def test_what_answers_at_once_imports_no_jax() -> None:
    slow = ("jax", "flax", "optax", "orbax", "tensorflow_datasets", "optuna", "ray", "matplotlib")
    names = ", ".join(f"mmids_cnn.{name}" for name in layout.NO_JAX)
    code = f"import sys, {names}\nprint(*({{*sys.modules}} & {set(slow)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_git_sees_every_module() -> None:
    """A pattern of `.gitignore` that matches a folder of the package would leave its new files out."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    arguments = ("ls-files", "--others", "--ignored", "--exclude-standard", "*.py")
    folders = ("mmids_cnn", "tests", "experiments")
    for folder in folders:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT / folder
        )
        assert done.stdout == ""


def test_the_top_level_is_the_commands_and_the_core() -> None:
    assert len([*(ROOT / "mmids_cnn").glob("*.py")]) <= 24


def test_every_module_of_the_core_has_a_test_of_its_name() -> None:
    files = {path.stem for path in (ROOT / "mmids_cnn").glob("*.py")}
    names = {name for name in files if layout.wing(name) == "core"}
    named = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert names - {"__init__"} <= named


def test_folders_of_tests_are_those_of_the_package() -> None:
    folders = {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    own = {"commands", "promises", "support", "benchmarks"}
    assert folders - own <= {path.name for path in (ROOT / "mmids_cnn").iterdir() if path.is_dir()}
