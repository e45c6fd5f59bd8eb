"""The commands of the README are taken as they are written; `make readme` runs them to their ends."""

import re
import shlex
import tomllib

import pytest

from tests.promises import readme
from tests.support.suite import ROOT, CommandLine

TEXT = (ROOT / "README.md").read_text()
MODULES = [line for line in readme.commands(TEXT) if line.startswith("python -m mmids_cnn.")]


def test_commands_are_found() -> None:
    found = readme.commands(TEXT)
    assert found[0].startswith("git clone <this repository> && cd mmids_cnn")
    assert any(line.startswith("make run") for line in found) and len(MODULES) >= 10
    assert any("channels=choice((8, 16), (16, 32, 32))" in line for line in MODULES)  # of the third line
    assert readme.commands("    first step after 1 s\n\n    make a \\\n      b\ntext\n    ls") == [
        "make a       b"
    ]


@pytest.mark.parametrize("line", MODULES)
def test_command_is_refused_for_nothing_but_what_is_not_there(line: str, command_line: CommandLine) -> None:
    """Flags and leaves are right where the first complaint is of data, or a folder, that does not exist."""
    _, _, module, *arguments = shlex.split(line, comments=True)
    name = module.removeprefix("mmids_cnn.")
    nowhere = {"main": "--config.dataset.archives=nowhere", "compare": "nowhere"}.get(
        name, "--workdir=nowhere"
    )
    if name == "compare":
        arguments = [one for one in arguments if one.startswith("--")]
    arguments = [one.replace("--config=", f"--config={ROOT}/") for one in arguments]
    done = command_line(name, *arguments, nowhere)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    expected = {"main": "dataset.archives: expected", "compare": "nowhere: expected"}
    assert re.match(f"error: {expected.get(name, '--workdir: expected a run folder')}", done.stderr), (
        done.stderr
    )


def test_targets_extras_and_files_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", TEXT)) - {"git", "and"} <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name for group in re.findall(r"'\.?(?:mmids_cnn)?\[([\w,]+)\]'", TEXT) for name in group.split(",")
    }
    named |= set(re.findall(r"extras? `(\w+)`", TEXT))
    assert named and named <= extras.keys()
    for path in set(re.findall(r"\b((?:experiments|tests)/[\w/]+(?:\.py|\.md|\.png)?)", TEXT)):
        assert (ROOT / path).exists(), path
