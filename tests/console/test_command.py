"""The command line as a user types it: every mistake is one line and a status, and leaves nothing behind."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from experiments import base
from mmids_cnn.console.terminal import MODES
from mmids_cnn.settings import schema
from tests.support import forking, idx_files, lines
from tests.support.suite import CommandLine

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "experiments" / "base.py")
LEAVES = schema.flatten(base.get_config())
COMMANDS = ["main", "evaluate", "predict", "reproduce", "compare", "report", "draw"]

FROM_BASE = "from experiments import base\ndef get_config():\n    config = base.get_config()\n"
FILES = {
    "mine.py": FROM_BASE + "    config.seed = 5\n    return config\n",
    "raises.py": "import math\n\nmath.sqrt(-1)\n",
    "raises_later.py": "def get_config():\n    raise RuntimeError('two\\nlines')\n",
    "syntax.py": "def get_config(:\n",
    "without.py": "seed = 1\n",
    "number.py": "def get_config():\n    return 3\n",
    "nothing.py": "def get_config():\n    pass\n",
    "word.py": FROM_BASE.replace("get_config()", "get_config(word)", 1)
    + "    config.seed = len(word)\n    return config\n",
    "empty.py": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
    "leaves.py": "import sys\nsys.exit(0)\n",
    "imports.py": "import no_such_module\n",
    "wrong.py": FROM_BASE + "    config.optimizer.learning_rate = -1.0\n    return config\n",
    "a-file": "",
}
LIST = ", ".join(sorted(LEAVES))
FLAGS = "compilation_cache, config, coordinator, debug, device, help, process, processes, progress, workdir"

# What is typed after `main`, and what is answered. `BASE` stands for --config=experiments/base.py.
MISTAKES: dict[str, str] = {
    "BASE --nope": rf"--nope: no such flag; valid names: {FLAGS}",
    "BASE --workdri=x": rf"--workdri: no such flag; did you mean workdir\? valid names: {FLAGS}",
    "BASE --config.sed=1": rf"--config\.sed: no such config key; did you mean seed\? valid names: {LIST}",
    "BASE --config.learning_rate=1": r"--config\.learning_rate: .*did you mean optimizer\.learning_rate\?",
    "BASE --config.optimizer.learn=1": r"--config\.optimizer\.learn: .*did you mean optimizer\.learn",
    "BASE --config.optimzer.b1=0.5": r"--config\.optimzer\.b1: .*did you mean optimizer\.b1\?",
    "BASE --config.qqqqqq=1": rf"--config\.qqqqqq: no such config key; valid names: {LIST}",
    "BASE --config.seed.x=1": r"--config\.seed\.x: no such config key; did you mean seed\?",
    "BASE --config.optimizer=1": r"--config\.optimizer: expected a leaf, got a section; .*optimizer\.eps,",
    "BASE config.seed=1": r"expected flags only, got the argument .*; did you mean --config\.seed=1\?",
    "BASE stray": r"expected flags only, got the argument 'stray'; remove it",
    "BASE -- --workdir=x": r"expected flags only, got the argument '--workdir=x'; .*",
    "BASE --device=tup": r"--device: expected one of <cpu\|gpu\|tpu>, got 'tup'; change the flag",
    "BASE --config.seed=x": r"--config\.seed: expected an integer, got 'x'; change the flag",
    "BASE --config.seed=1.5": r"--config\.seed: expected an integer, got '1\.5'; change the flag",
    "BASE --config.seed=": r"--config\.seed: expected an integer, got ''; change the flag",
    "BASE --config.seed": r"--config\.seed: expected a value, got none; write --config\.seed=VALUE",
    "BASE --config.seed --workdir=x": r"--config\.seed: expected a value, got none; write --config\.seed=",
    "BASE --workdir --config.seed=1": r"--workdir: expected a value, got none; write --workdir=VALUE",
    "BASE --config.sed": r"--config\.sed: no such config key; did you mean seed\?",
    "BASE --config.=1": rf"--config\.: no such config key; valid names: {LIST}",
    "BASE ' --config.seed=1'": r"expected flags only, .* ' --config.seed=1'; did you mean --config\.seed=1\?",
    "BASE \N{EM DASH}config.seed=1": r"expected flags only, got .*; did you mean --config\.seed=1\?",
    "\N{EM DASH}config=x.py": r"expected flags only, got the argument .*; did you mean --config=x\.py\?",
    "BASE BASE": r"--config: expected one experiment file, got 2; give --config once",
    "BASE --config x.py": r"--config: expected one experiment file, got 2; give --config once",
    "BASE --config.optimizer.b1=x": r"--config\.optimizer\.b1: expected a number, got 'x'; change the flag",
    "BASE --config.optimizer.b1=nan": r"config\.optimizer\.b1: expected .*, got nan; set --config\.opti",
    "BASE --config.optimizer.eps=inf": r"config\.optimizer\.eps: expected a finite .*, got inf; set --config",
    "BASE --config.optimizer.learning_rate=-1": r"config\.optimizer\.learning_rate: expected .* > 0, got -1",
    "BASE --config.num_epochs=0": r"config\.num_epochs: expected an integer from 1 .*, got 0; set --c",
    "BASE --config.model.channels=()": r"config\.model\.channels: expected a non-empty .*, got \(\); ",
    "BASE --config.model.channels=8,0": r"config\.model\.channels: expected .*, got \(8, 0\); .*",
    "BASE --config.model.channels=8.5": r"config\.model\.channels: expected .*, got \(8\.5,\); .*",
    "BASE --config.model.channels=x": r"config\.model\.channels: expected .*, got \('x',\); .*",
    "BASE --config.model.channels=[8,8": r"--config\.model\.channels: expected .*, got '\[8,8'; .*",
    "BASE --config.model.channels={16,32,32}": r"--config\.model\.channels: expected values with commas",
    "BASE --config.model.channels {16:1,32:2}": r"--config\.model\.channels: expected values with .*, got",
    """BASE "--config.model.channels=b'ab'" """: r"--config\.model\.channels: expected values with .*, got",
    "BASE '--config.model.channels=16#,32'": r"--config\.model\.channels: expected values .*, got '16#,32'",
    "BASE --config.optimizer.name=rprop": r"config\.optimizer\.name: expected one of .*'sgd', .*got 'rprop'",
    "BASE --config.dataset.name=": r"config\.dataset\.name: expected a name .*, got ''; .*",
    "BASE --progress=loud": r"--progress: expected .*auto.*bar.*plain.*none.*, got 'loud'; .*",
    "BASE --debug=perhaps": r"--debug: expected true or false, got 'perhaps'; .*",
    "BASE --flagfile=missing": r".*flagfile.*missing.*",
    "": r"--config: expected the path of an experiment file, got none; try --config=base",
    "--config": r"--config: expected a value for the flag, got none; .*",
    "--config=": r"--config: expected .*",
    "--config=missing.py": r"--config: expected a config file, found none at 'missing\.py'; ",
    "--config=missing.py --config.seed=1": r"--config: expected a config file, found none at 'miss",
    "--config=.": r"--config: expected a config file, found none at '\.'; .*",
    "--config=raises.py": r"--config: .* raised ValueError: .* in line 3; correct the file",
    "--config=raises_later.py": r"--config: .* raised RuntimeError: two lines in line 2; correct the file",
    "--config=raises.py --config.seed=1": r"--config: expected raises\.py .* raised ValueError: .*",
    "--config=syntax.py": r"--config: expected syntax\.py .*, but it raised SyntaxError: .*line 1.*",
    "--config=imports.py": r"--config: expected imports\.py .* raised ModuleNotFoundError: .*no_such_mo",
    "--config=leaves.py": r"--config: expected leaves\.py .*, but it raised SystemExit.*",
    "--config=without.py": r"--config: expected without\.py to define get_config\(\), .*",
    "--config=number.py": r"--config: expected get_config\(\) of number\.py to return a .*, got 3; ",
    "--config=number.py --config.seed=1": r"--config: expected get_config\(\) of number\.py .*, got 3; .*",
    "--config=nothing.py": r"--config: expected get_config\(\) of nothing\.py .*, got None; .*",
    "--config=empty.py": r"config\.seed: missing; start the experiment from experiments/base\.py",
    "--config=word.py": r"--config: .*get_config\(\) missing 1 required positional argument: 'word'.*",
    "--config=word.py:a --config.sed=1": r"--config\.sed: no such config key; .*",
    "--config=mine.py:a": r"--config: .*takes 0 positional arguments but 1 was given.*",
    "--config=a-file": r"--config: expected a-file to .*, but it raised AttributeError: .*'get_config'; ",
    "--config=wrong.py": r"config\.optimizer\.learning_rate: expected a finite number > 0, got -1\.0; .*",
    "--config.seed=1": r"--config\.seed: expected --config=FILE beside it; try --config=base",
    "BASE --workdir=a-file": r"workdir: expected a folder that can be written, found a-file; set --wor",
    "BASE --workdir=a-file/below": r"workdir: expected a folder that can be written, found a-file; .*",
    "BASE --workdir=/proc": r"workdir: expected a folder that can be written, found /proc; .*",
    "BASE --workdir=/proc/new": r"workdir: expected a folder that can be written, found /proc; .*",
    f"BASE --workdir={'x' * 300}": r"workdir: expected a folder that can be written, .*",
    "BASE --config.dataset.archives=missing": r"dataset\.archives: expected .*, found none at missing",
    "BASE --config.dataset.archives=~nobody-of-that-name": r"config\.dataset\.archives: expected a folder .*",
    "BASE --config.dataset.data_dir=~nobody-of-that-name": r"config\.dataset\.data_dir: expected a folder.*",
    "BASE --config.dataset.archives=.": r"\.: expected an archive such as train-images-.*, found none",
    f"BASE --config.dataset.archives={'x' * 300}": r"dataset\.archives: expected .*, found none at xx",
    f"--config={'x' * 300}": r"--config: expected a config file, found none at 'xx",
    f"--config={'x/' * 2500}": r"--config: expected a config file, found none at 'x/",
    **{
        f"BASE --config.dataset.name={name}": rf"config\.dataset\.name: expected a name .*, got '{name[:9]}"
        for name in (".", "..", "../mnist", "/mnist", "mnist/./3", "x" * 300, "x" * 5000)
    },
    "BASE --config.dataset.name=idx_archives": r"dataset\.name: expected a TFDS data set, got 'idx_arch",
    "BASE --config.dataset.name=\udcff": r"config\.dataset\.name: expected a text in UTF-8, got '\\udcff'",
    "BASE --workdir=\udcff": r"workdir: expected a folder whose path is UTF-8, found '.*/\\udcff'; set --wo",
    "BASE --config.dataset.name=mnist_": r"dataset\.name: expected a TFDS .*; did you mean mnist",
}
SLOWER = {  # known to be wrong once the data are there, but before JAX is
    "BASE --config.dataset.validation_examples=60000": r"dataset\.validation_examples: expected fewer th",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of `command_line`, with the experiment files of these tests."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture(scope="session")
def no_jax(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH by which importing JAX ends the process."""
    return lines.without_jax(tmp_path_factory.mktemp("no_jax"))


@pytest.fixture(scope="session")
def forked(
    data_dir: Path, no_jax: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[forking.Forking]:
    """Runs commands as `command_line` does, without JAX, in a third of the time: imports are done before."""
    folder = tmp_path_factory.mktemp("forked")
    with forking.started(folder, lines.IMPORTS, TFDS_DATA_DIR=str(data_dir), PYTHONPATH=no_jax) as it:
        yield it


def typed(line: str) -> list[str]:
    return [f"--config={BASE}" if word == "BASE" else word for word in shlex.split(line)]


# Mistakes found at different moments: by these the command is started as a user starts it, too.
STARTED = ("", "BASE --nope", "BASE --config.num_epochs=0", "--config=raises.py", "BASE --workdir=a-file")


@pytest.mark.parametrize(
    ("line", "started"), [*((line, False) for line in MISTAKES | SLOWER), *((line, True) for line in STARTED)]
)
def test_mistake(
    command_line: CommandLine, forked: forking.Forking, folder: Path, no_jax: str, line: str, started: bool
) -> None:
    if started:
        done = command_line("main", *typed(line), PYTHONPATH=no_jax)
    else:
        done = forked(folder, *typed(line), module="mmids_cnn.main")
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.match(f"error: {(MISTAKES | SLOWER)[line]}", done.stderr), done.stderr
    assert done.returncode == 2
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == set(FILES)


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("BASE --nope", "--debug"),
        ("BASE --nope", "-debug"),
        ("BASE --config.num_epochs=0", "--debug"),
        ("BASE --config.num_epochs=0", "--debug=true"),
        ("--config=raises.py", "--debug"),
    ],
)
def test_debug_shows_the_traceback_too(forked: forking.Forking, folder: Path, line: str, flag: str) -> None:
    done = forked(folder, *typed(line), flag, module="mmids_cnn.main")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert re.match(f"error: {MISTAKES[line]}", done.stderr.splitlines()[-1])
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        *((command, "--help") for command in COMMANDS),
        ("main", "-h"),
        ("predict", "-help"),
        ("main", "--helpfull"),
    ],
)
def test_help(command_line: CommandLine, tmp_path: Path, no_jax: str, command: str, flag: str) -> None:
    done = command_line(command, "--workdir=x", "--config=missing.py", flag, PYTHONPATH=no_jax)
    assert (done.returncode, done.stderr) == (0, "")
    own = {
        "main": {"config", "workdir", "progress", "coordinator", "processes", "process"},
        "evaluate": {
            *("workdir", "split", "checkpoint", "views"),
            *("name", "archives", "shifts", "shifts_picture", "json"),
        },
        "predict": {"workdir", "test_index", "many", "show", "checkpoint", "json"},
        "reproduce": {"workdir", "into", "progress"},
        "draw": {"workdir", "checkpoint"},
        "compare": {"sort", "csv", "json"},
        "report": {"workdir"},
    }[command]
    assert set(re.findall(r"^  --(\w+): ", done.stdout, re.M)) == own | {
        "debug",
        "device",
        "compilation_cache",
    }
    leaves = re.findall(r"^  --config\.([\w.]+)=", done.stdout, re.M)
    assert sorted(leaves) == (sorted(LEAVES) if command == "main" else [])
    assert f"python -m mmids_cnn.{command} " in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("to", "status", "lines"), [("> /dev/full", 1, 2), ("| true", 0, 0)])
def test_help_that_cannot_be_written(tmp_path: Path, no_jax: str, to: str, status: int, lines: int) -> None:
    line = f"(sleep 0.2; exec {sys.executable} -m mmids_cnn.evaluate --help) {to}"  # the reader is gone
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": no_jax},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (status, lines), done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in ("main", "compare")])
def test_folder_without_a_run(forked: forking.Forking, tmp_path: Path, command: str) -> None:
    picture = ["--test_index=0"] if command == "predict" else []
    for workdir, shown in (
        ("--workdir=missing", "missing"),
        ("--workdir=.", r"\."),
        ("", "runs/base"),
        *((f"--workdir={name}", name) for name in ("x" * 300, "x/" * 2500 + "x")),
    ):
        done = forked(tmp_path, *picture, *([workdir] if workdir else []), module=f"mmids_cnn.{command}")
        found = f"error: --workdir: expected a run folder with a config.json, found none in {shown}; "
        assert re.match(found, done.stderr)
        assert done.stderr.count("\n") == 1
        assert done.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "reproduce", "draw"])
def test_commands_without_arguments_refuse_them(command_line: CommandLine, no_jax: str, command: str) -> None:
    done = command_line(command, "stray", PYTHONPATH=no_jax)
    assert done.stderr == "error: expected flags only, got the argument 'stray'; remove it\n"
    assert done.returncode == 2
    done = command_line(command, "--config.seed=1", PYTHONPATH=no_jax)
    assert done.stderr.startswith("error: --config.seed: no such flag; valid names: ")


def test_picture_whose_name_is_like_a_flag(forked: forking.Forking, tmp_path: Path) -> None:
    done = forked(tmp_path, "-name.png", module="mmids_cnn.predict")
    assert re.fullmatch(r"error: .*; for a file of that name write -- -name\.png\n", done.stderr)
    assert done.returncode == 2
    done = forked(tmp_path, "--", "-name.png", module="mmids_cnn.predict")
    assert done.stderr.startswith("error: --workdir: expected a run folder")  # the picture's turn comes later


def test_number_flag_of_predict(command_line: CommandLine, no_jax: str) -> None:
    done = command_line("predict", "--test_index=one", PYTHONPATH=no_jax)
    assert done.stderr == "error: --test_index: expected an integer, got 'one'; change the flag\n"


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Arguments for a small data set."""
    idx_files.write_set(tmp_path / "archives", idx_files.digits(100, 40))
    return [f"--config={BASE}", "--config.dataset.name=fashion_mnist", "--config.dataset.archives=archives"]


QUICK = ("--config.num_epochs=1", "--config.model.channels=4,")


@pytest.mark.soak
@pytest.mark.parametrize(("variable", "flag"), [("nonsense", ""), ("cpu", "gpu"), ("", "tpu")])
def test_no_such_device(tmp_path: Path, small: list[str], variable: str, flag: str) -> None:
    command = [sys.executable, "-m", "mmids_cnn.main", *small, *([f"--device={flag}"] if flag else [])]
    environment = {**os.environ, "JAX_PLATFORMS": variable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if flag and done.returncode == 0:
        pytest.skip(f"there is a {flag}")
    wanted = (
        rf"^error: --device: expected {flag or variable} \(or .+\), found the CPU .+; leave it out, or .+\n"
    )
    assert re.search(wanted, done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "many"),
        ("JAX_DISABLE_JIT", "True"),
        ("JAX_NO_TRACING", "1"),
        ("JAX_NO_EXECUTION", "on"),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict"),
        ("JAX_NUMPY_RANK_PROMOTION", "raise"),
        ("JAX_TRANSFER_GUARD", "disallow"),
        ("JAX_TRANSFER_GUARD_HOST_TO_DEVICE", "disallow_explicit"),
    ],
)
def test_variable_that_cannot_be_used(
    forked: forking.Forking, tmp_path: Path, small: list[str], name: str, value: str
) -> None:
    done = forked(tmp_path, *small, module="mmids_cnn.main", environment={**os.environ, name: value})
    assert re.fullmatch(rf"error: {name}: expected .+, found '{value}'; .+\n", done.stderr)
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}


@pytest.mark.parametrize("folder", ["a\udcff", "~nobody-of-that-name"])
def test_data_folder_that_cannot_be_used(
    forked: forking.Forking, tmp_path: Path, small: list[str], folder: str
) -> None:
    environment = {**os.environ, "TFDS_DATA_DIR": folder}
    done = forked(tmp_path, *small, module="mmids_cnn.main", environment=environment)
    assert re.fullmatch(
        r"error: dataset\.data_dir: expected .*, found .*(\\udcff|nobody).*; set .* TFDS_DATA_DIR .*\n",
        done.stderr,
    )
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL"])
def test_variable_that_jax_refuses(
    command_line: CommandLine, tmp_path: Path, small: list[str], name: str
) -> None:
    done = command_line("main", *small, **{name: "nonsense"})
    found = rf".*nonsense.*{name}.*"
    assert re.fullmatch(rf"error: JAX: expected .+, found: {found}; .+\n", done.stderr, re.IGNORECASE)
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--config.model.channels=1,1,1,1,1",
            "config.model.channels: expected at most 4 blocks for images of 28x28",
        ),
        (
            "--config.model.channels=65536,65536",
            "config.model: expected a network that is trained in ",
        ),
        ("--config.batch_size=3000000000", "config.batch_size: expected "),
    ],
)
def test_setting_that_the_data_do_not_allow(
    command_line: CommandLine, tmp_path: Path, small: list[str], argument: str, message: str
) -> None:
    done = command_line("main", *small, argument, "--config.eval.every_epochs=0")
    assert done.stderr.startswith(f"error: {message}")
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}


# The estimate before knows nothing of what a network of one's own computes on the way: 16 TB here.
LARGE = """
import flax.linen as nn
import jax.numpy as jnp


class Large(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train=False, valid=None):
        x = images.reshape(len(images), -1) / 255.0
        if self.is_initializing():
            row = jnp.resize(x[0], 2**21)
            self.param("scale", lambda key: jnp.sin(row[:, None] * row) @ row)
        return nn.Dense(self.num_classes)(x)
"""


def test_memory_that_runs_out(command_line: CommandLine, tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    done = command_line("main", *small, "--config.model.name=large:Large")
    assert re.fullmatch(
        r"error: memory: .*RESOURCE_EXHAUSTED.*; lower .*--config\.sweep\.population\n", done.stderr
    )
    assert done.returncode == 1


@pytest.mark.soak
@pytest.mark.parametrize("file", ["base", "sweep"])
def test_home_that_cannot_be_written(
    command_line: CommandLine, tmp_path: Path, small: list[str], file: str
) -> None:
    """First the data have no place; then programs and pictures have none, which is no obstacle."""
    small = [f"--config={file}", *small[1:], "--config.dataset.validation_examples=0"]
    small += ["--config.sweep.confirm_seeds=1"] if file == "sweep" else []
    home = str(tmp_path / "archives" / "t10k-labels-idx1-ubyte.gz")
    here = {"HOME": home, "XDG_CACHE_HOME": "", "TFDS_DATA_DIR": "~/data"}
    done = command_line("main", *small, **here)
    assert re.fullmatch(
        rf"error: dataset\.data_dir: expected a folder that can be written, found {home}; set "
        r"--config\.dataset\.data_dir or TFDS_DATA_DIR to another\n",
        done.stderr,
    )
    assert done.returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"archives"}
    done = command_line("main", *small, *QUICK, "--config.dataset.data_dir=data", **here)
    assert re.fullmatch(
        rf"note: the compilation cache {home}/\.cache/mmids_cnn/compiled cannot be written: Not a directory; "
        "set --compilation_cache\n",
        done.stderr,
    )
    assert done.returncode == 0


# What a correct command line resolves to: the real entry point, but for the training.
RESOLVES = """
import json, sys
from mmids_cnn import main
from mmids_cnn.settings import schema
from mmids_cnn.console import command
from mmids_cnn.runs import run
run.execute = lambda experiment, workdir, terminal: print(
    json.dumps([schema.flatten(experiment), str(workdir), terminal._mode])
)
command.run(main.main, main.define_flags, main.__doc__, takes_config=True)
"""


class Resolved(Protocol):
    """Leaves, workdir and mode of progress of a command line typed in a folder."""

    def __call__(self, folder: Path, *arguments: str) -> tuple[dict[str, Any], str, str]: ...


@pytest.fixture
def resolved(forked: forking.Forking) -> Resolved:
    def call(folder: Path, *arguments: str) -> tuple[dict[str, Any], str, str]:
        done = forked(folder, *arguments, code=RESOLVES)
        assert (done.returncode, done.stderr) == (0, "")
        leaves, workdir, mode = json.loads(done.stdout)
        tuples = {name: tuple(leaves[name]) for name in ("model.channels", "augment.names", "eval.metrics")}
        return leaves | tuples, workdir, mode

    return call


def test_compilation_cache_that_jax_cannot_take(forked: forking.Forking, tmp_path: Path) -> None:
    done = forked(tmp_path, f"--config={BASE}", "--compilation_cache=\udcff", code=RESOLVES)
    assert done.stderr == (
        "note: the compilation cache '\\udcff' cannot be used: its path is not UTF-8; "
        "set --compilation_cache\n"
    )
    assert done.returncode == 0


def test_experiment_file_may_import_jax(resolved: Resolved, tmp_path: Path) -> None:
    """What JAX reads when it is imported has been said by then."""
    (tmp_path / "early.py").write_text(
        "import os\nfrom experiments import base\nget_config = base.get_config\n"
        "assert os.environ['JAX_COMPILATION_CACHE_DIR'] == 'here'\n"
    )
    resolved(tmp_path, "--config=early.py", "--compilation_cache", "here")


def test_no_overrides(resolved: Resolved, tmp_path: Path) -> None:
    assert resolved(tmp_path, f"--config={BASE}") == (LEAVES, "runs/base", "plain")


OTHER: dict[str, Any] = {  # a value other than the default for every leaf
    "seed": 4294967295,
    "num_epochs": 2,
    "batch_size": 7,
    "report": False,
    "dataset.name": "a name=with: signs",
    "dataset.data_dir": "~/x y",
    "dataset.archives": "a,b",
    "dataset.validation_examples": 9,
    "dataset.placement": "streamed",
    "model.channels": (8, 4),
    "model.kernel_size": 5,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 3e-4,
    "optimizer.b1": 0.25,
    "optimizer.b2": 0.5,
    "optimizer.eps": 1.0,
    "optimizer.weight_decay": 0.125,
    "optimizer.schedule": "one_cycle",
    "optimizer.warmup_fraction": 0.75,
    "augment.names": ("cutout", "affine"),
    "augment.flip": 0.25,
    "augment.shift": 1.5,
    "augment.rotation": 10.0,
    "augment.scale": 0.125,
    "augment.shear": 0.25,
    "augment.cutout": 7.0,
    "train.loss": "squared_error",
    "train.label_smoothing": 0.1,
    "train.clip_norm": 1.0,
    "train.average_decay": 0.5,
    "train.groups": 16,
    "train.precision": "bfloat16",
    "train.on_nonfinite": "skip",
    "eval.metrics": ("accuracy", "loss", "brier"),
    "eval.every_epochs": 3,
    "eval.every_seconds": 60.0,
    "eval.batch_size": 11,
    "checkpoint.every_epochs": 4,
    "checkpoint.every_seconds": 0.5,
    "checkpoint.keep": 5,
    "tensorboard": True,
}


def test_every_leaf_can_be_overridden(resolved: Resolved, tmp_path: Path) -> None:
    # Another network has other leaves: see test_own.py; patience counts every epoch: see test_patience.py.
    other = OTHER | {"model.name": "conv_net", "train.patience": 0}
    assert set(other) == set(LEAVES)
    assert {leaf for leaf in LEAVES if LEAVES[leaf] == other[leaf]} == {"model.name", "train.patience"}
    overrides = [f"--config.{leaf}={value}" for leaf, value in OTHER.items()]
    assert resolved(tmp_path, f"--config={BASE}", *overrides)[0] == other


def test_config_may_stand_anywhere(resolved: Resolved, tmp_path: Path) -> None:
    leaves, _, _ = resolved(tmp_path, "--config.seed=3", f"--config={BASE}", "--config.num_epochs=2")
    assert (leaves["seed"], leaves["num_epochs"]) == (3, 2)


PAIRS = [f"model.channels={text}" for text in ("(8,9)", "8,9", "[8,9]", " ( 8, 9 ) ")]
SINGLES = [f"model.channels={text}" for text in ("8", "(8,)", "8,", "[8]")]


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        *((spelling, (8, 9)) for spelling in PAIRS),
        *((spelling, (8,)) for spelling in SINGLES),
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.learning_rate=.5", 0.5),
        ("optimizer.learning_rate=2E-4", 2e-4),
        ("dataset.archives=", ""),
    ],
)
def test_spellings_of_a_value(resolved: Resolved, tmp_path: Path, spelling: str, value: Any) -> None:
    leaves, leaf = resolved(tmp_path, f"--config={BASE}", f"--config.{spelling}")[0], spelling.split("=")[0]
    assert leaves == LEAVES | {leaf: value}
    assert type(leaves[leaf]) is type(value)


def test_spellings_of_flags(resolved: Resolved, tmp_path: Path) -> None:
    found = resolved(
        tmp_path,
        "-config",
        BASE,
        "--config.seed",
        "3",
        "-config.num_epochs=4",
        "--workdir",
        "w",
        "--progress=bar",
    )
    assert found == (LEAVES | {"seed": 3, "num_epochs": 4}, "w", "plain")
    assert resolved(tmp_path, f"--config={BASE}", "--config.seed=3", "--config.seed=4")[0]["seed"] == 4
    twice = ["--config.model.channels=4,6", "--config.model.channels=4,7"]
    for pair in (twice, [word for both in twice for word in both.split("=")]):  # with = and without
        assert resolved(tmp_path, f"--config={BASE}", *pair)[0]["model.channels"] == (4, 7)
    of_file = "\n".join(["--config.model.channels=4,5", "--config.optimizer.b1", "0.5"])
    (tmp_path / "flags").write_text(of_file)
    leaves = resolved(tmp_path, f"--config={BASE}", twice[0], "--flagfile=flags", "--config.seed", "7")[0]
    assert leaves == LEAVES | {"model.channels": (4, 5), "optimizer.b1": 0.5, "seed": 7}
    assert resolved(tmp_path, f"--config={BASE}", "--workdir=")[1] == "runs/base"


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_progress(resolved: Resolved, tmp_path: Path, mode: str) -> None:
    expected = "plain" if mode in ("auto", "bar") else mode  # without a terminal a bar would show nothing
    assert resolved(tmp_path, f"--config={BASE}", f"--progress={mode}")[2] == expected


@pytest.mark.parametrize("place", ["mine.py", "deep/in/mine.py", "experiments/mine.py"])
def test_experiment_file_anywhere_builds_on_base(resolved: Resolved, tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FILES["mine.py"])
    (tmp_path / "elsewhere" / "experiments").mkdir(parents=True)  # a folder of that name is no obstacle
    expected = (LEAVES | {"seed": 5}, "runs/mine", "plain")
    assert resolved(tmp_path, f"--config={place}") == expected
    assert resolved(tmp_path / "elsewhere", f"--config={path}") == expected
    assert resolved(ROOT, f"--config={path}") == expected


def test_experiment_file_with_a_word(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "word.py").write_text(FILES["word.py"])
    leaves, workdir, _ = resolved(tmp_path, "--config=word.py:three")
    assert (leaves["seed"], workdir) == (5, "runs/word")


def test_experiment_files_build_on_their_neighbours(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own_base.py").write_text(FILES["mine.py"])
    source = "from experiments import own_base\ndef get_config():\n    return own_base.get_config()\n"
    (tmp_path / "experiments" / "child.py").write_text(source)
    leaves, workdir, _ = resolved(Path("/"), f"--config={tmp_path}/experiments/child.py")
    assert (leaves["seed"], workdir) == (5, "runs/child")


def test_importing_the_commands_does_nothing(tmp_path: Path, no_jax: str) -> None:
    code = (
        "from absl import flags\nfrom mmids_cnn import draw, evaluate, main, predict, reproduce\n"
        "print({'config', 'workdir', 'debug', 'checkpoint'} & set(flags.FLAGS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": no_jax},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.soak
def test_lines_that_are_wrong_at_random(forked: forking.Forking, tmp_path: Path) -> None:
    assert lines.try_out(forked, tmp_path, 30)["wrong"] >= 10
