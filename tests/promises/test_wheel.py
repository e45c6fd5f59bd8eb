"""The package as it is installed elsewhere, without its repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import idx_files
from tests.support.suite import ROOT

SNIPPET = re.compile(r"## As a library\n.*?```python\n(.*?)```", re.S)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package, installed from its wheel."""
    pytest.importorskip("setuptools", minversion="77", reason="pip install -e '.[dev]' brings it")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mmids_cnn", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    quiet = ["-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", target, "."], cwd=source, check=True
    )
    return target


@pytest.fixture
def environment(installed: Path, data_dir: Path, cache_home: Path) -> dict[str, str]:
    own = {"TFDS_DATA_DIR": str(data_dir), "XDG_CACHE_HOME": str(cache_home)}
    return {**os.environ, **own, "PYTHONPATH": str(installed)}


def test_everything_is_in_it(installed: Path) -> None:
    sources = {path.relative_to(ROOT) for path in (ROOT / "mmids_cnn").rglob("*") if path.is_file()}
    sources = {path for path in sources if path.suffix not in (".pyc", ".pyo")}
    assert [path for path in sorted(sources) if not (installed / path).is_file()] == []
    assert [path.name for path in sorted(installed.iterdir()) if path.suffix != ".dist-info"] == ["mmids_cnn"]


def test_experiments_go_by_their_names(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    idx_files.write_set(tmp_path / "archives", idx_files.digits(100, 40))
    digits = ["--config.dataset.name=digits", "--config.dataset.archives=archives"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mmids_cnn.main", *digits, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = run("--config=base", "--config.num_epochs=1", "--config.model.channels=4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "; everything is in runs/base\n" in done.stdout
    done = run("--config=seeds", "--config.num_epochs=0")  # it imports two of the others
    assert done.stderr.startswith("error: config.num_epochs: expected an integer from 1 ")
    done = run("--config=bases")
    assert re.search(
        r"found none at 'bases'; give its path, or one of architecture_sweep, base, ", done.stderr
    )


def test_library_snippet_of_the_readme(environment: dict[str, str], tmp_path: Path) -> None:
    """As a script in an empty folder, up to the first row that it prints."""
    (snippet,) = SNIPPET.findall((ROOT / "mmids_cnn" / "README.md").read_text())
    (tmp_path / "script.py").write_text(snippet)
    command = [sys.executable, "-u", "script.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        row = process.stdout.readline()
        process.kill()
        assert row.startswith("{'step': 0, 'epoch': 0.0, 'test/loss': "), process.stderr.read()
