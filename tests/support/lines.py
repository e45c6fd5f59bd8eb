"""Command lines that are wrong in ways nobody thought of: valid ones, changed at random.

    python -m tests.support.lines --number 500

Each is answered with exit status 2 and one line, by less than two seconds of a core, and nothing is written;
or it is valid after all, and gets as far as JAX. Exit status 0: all are.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from PIL import Image

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from tests.support import forking, idx_files, processes

# All that a command imports, but for itself and JAX.
IMPORTS = """
from absl import flags
from ml_collections import config_flags
from mmids_cnn.console import command, signals, terminal
from mmids_cnn.runs import folder
from mmids_cnn.sweeps import config, sweep
"""

# The command, which shows what it would train and ends where data would be prepared or JAX imported: by then
# its line is known to be right.
COMMAND = """
import os, resource, runpy
from mmids_cnn.datasets import cache
from mmids_cnn.runs import run
resource.setrlimit(resource.RLIMIT_CPU, (2, 3))
cache._fill = lambda *_: os._exit(0)
def execute(experiment, *others, execute=run.execute):
    print(*experiment.model["channels"], flush=True)
    return execute(experiment, *others)
run.execute = execute
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""

_BASE = f"--config={processes.ROOT}/experiments/base.py"
_VALID = {
    "main": [
        *(_BASE, "--workdir=out", "--progress=plain", "--config.seed=1", "--config.num_epochs=2"),
        *("--config.dataset.name=fashion_mnist", "--config.dataset.archives=archives"),
        *("--config.dataset.data_dir=", "--config.dataset.validation_examples=10"),
        *("--config.model.channels=8,16", "--config.model.kernel_size=5", "--config.model.name=conv_net"),
        *("--config.optimizer.name=adamw", "--config.optimizer.learning_rate=3e-4"),
        *("--config.eval.metrics=loss,accuracy", "--config.checkpoint.every_seconds=0.5"),
    ],
    "evaluate": ["--workdir=run", "--split=test", "--views=5", "--compilation_cache=cache"],
    "predict": [
        *("--workdir=run", "--test_index=0", "--test_index=7", "--checkpoint=best", "--many"),
        *("--show=seen.png", "photo.png"),
    ],
    "draw": ["--workdir=run", "--checkpoint=best", "--compilation_cache=cache"],
    "compare": ["run", "--sort=date", "--csv=false"],
    "report": ["--workdir=run", "--compilation_cache=cache"],
    "export": ["--workdir=run", "--format=onnx,safetensors", "--checkpoint=newest", "--to=out"],
    "reproduce": ["--workdir=run", "--into=again", "--progress=none", "--compilation_cache=cache"],
}
# What is said of `--compilation_cache=\udcff`, which is no mistake: programs are compiled without a cache.
NO_CACHE = (
    "note: the compilation cache '\\udcff' cannot be used: its path is not UTF-8; set --compilation_cache\n"
)
_DASHES = ("", "-", "---", " --", "\N{EM DASH}", "\N{EN DASH}", "\N{MINUS SIGN}", "--no", "-- ")
_VALUES = (
    *("", " ", "-1", "0", "00", "1.5", "1e400", "-1e400", "nan", "inf", "9" * 30, "\u0661"),
    *("()", "(,)", "{16,32,32}", "16#,32", "[8,16", "b'ab'", "8,,16", "8;16", "(8,(16,))", "'8'"),
    *("None", "True", "true", ".", "..", "~", "~nobody-of-that-name/x", "/proc", "/proc/x"),
    *("a-file", "a-file/below", "missing", "run/../..", "../x", "a:b", "a\nb", "a\tb"),
    *("\udcff", "\u00e4\u00f6", "\U0001f600", "x" * 300, "x" * 5000, "x/" * 2500, "%s", "{}", "\\"),
)
_WORDS = (
    *("", "-", "--", "---", "=", "--=", "--=1", "-9", "stray", "\udcff", "--\udcff=1", "-x.png"),
    *("config.seed=1", "--config", "--config.", "--config.=1", "--config..seed=1", "--noconfig.seed"),
    *("--config.model=1", "--config.model={}", "--config.model.channels", "--config.sed=1", "--split="),
    *("--flagfile", "--flagfile=missing", "--flagfile=a-file", "--flagfile=run/config.json"),
    *("--workdir", "--into", "--test_index"),
)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """A command, and a line of words for it that is valid but for one or two changes."""
    command = draw(st.sampled_from(sorted(_VALID)))
    words = list(_VALID[command])
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + 1] = draw(_changed(words[at]))
        words = words or ["--"]
    return command, tuple(words)


@st.composite
def _changed(draw: st.DrawFn, word: str) -> list[str]:
    """Words in the place of one."""
    name, equals, value = word.partition("=")
    place = draw(st.integers(0, len(word)))
    letter = draw(st.sampled_from("-=., '\"aZ0#:\u00e4\u2014\x7f"))  # no / for a folder at the root
    other = draw(st.sampled_from(_VALUES))
    changes: dict[str, list[str]] = {
        "value": [f"{name}={other}"],
        "value in a word": [name, other],
        "value beside": [f"{name}={value}{other}"],
        "dashes": [draw(st.sampled_from(_DASHES)) + word.lstrip("-")],
        "letter in": [word[:place] + letter + word[place:]],
        "letter out": [word[:place] + word[place + 1 :]],
        "letters swapped": [word[:place] + word[place : place + 2][::-1] + word[place + 2 :]],
        "quoted": [f"{name}={letter}{value}{letter}"],
        "in two": [name, value] if equals else [word],
        "without a value": [name],
        "twice": [word, word],
        "left out": [],
        "another": [word, draw(st.sampled_from(_WORDS))],
        "another before": [draw(st.sampled_from(_WORDS)), word],
    }
    return changes[draw(st.sampled_from(sorted(changes)))]


def make_folder(root: Path) -> Path:
    """Makes what the lines name, archives, prepared data, a run, a picture; returns the working directory."""
    folder = root / "work"
    idx_files.write_set(folder / "archives", idx_files.digits(100, 40))
    config = base.get_config()
    config.dataset.name, config.dataset.archives = "fashion_mnist", str(folder / "archives")
    config.dataset.data_dir = str(root / "data")
    experiment = config_lib.resolve(config)
    data.load(experiment.dataset)
    for path in (folder / "run" / run_folder.CHECKPOINTS / "1", root / "home"):
        path.mkdir(parents=True)
    files.write_json(folder / "run" / run_folder.CONFIG, config_lib.to_dict(experiment))
    files.write_json(folder / "run" / run_folder.PROVENANCE, {"dataset": {}, "packages": {}})
    numbers = ("step", "epoch", "images_per_second", "test/count", "test/accuracy", "test/loss")
    seconds = (f"seconds/{name}" for name in ("total", "data", "compile", "train", "eval"))
    result = {**dict.fromkeys((*numbers, *seconds), 1), "fingerprint": ""}
    files.write_json(folder / "run" / run_folder.RESULT, result)
    Image.linear_gradient("L").resize((28, 28)).save(folder / "photo.png")
    (folder / "a-file").touch()
    return folder


def answer(fork: forking.Forking, folder: Path, command: str, words: tuple[str, ...]) -> str:
    """Runs a line; 'valid' or 'wrong', and an `AssertionError` if it is answered in any other way."""
    before = processes.content(folder)
    home = str(folder.parent / "home")
    own = {"TFDS_DATA_DIR": str(folder.parent / "data"), "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
    code = COMMAND.format(module=f"mmids_cnn.{command}")
    done = fork(folder, *words, code=code, environment={**os.environ, **own})
    shown = f"python -m mmids_cnn.{command} {words}: {done.returncode}, {done.stdout}{done.stderr}"
    said = done.stderr.removeprefix(NO_CACHE)
    if done.returncode == 0 or said == "JAX was imported\n":
        for path in sorted(folder.rglob("*"), reverse=True):  # a data folder, where one was named
            if str(path.relative_to(folder)) not in before:
                path.rmdir() if path.is_dir() else path.unlink()
        if command == "main":
            assert done.stdout.split("\n")[0].split() == _channels(words), shown
        return "valid"
    assert done.returncode == 2, shown
    assert re.fullmatch("error: (?!unexpected)[^\n]+\n", said), shown
    assert processes.content(folder) == before, shown
    return "wrong"


def _channels(words: tuple[str, ...]) -> list[str]:
    """The numbers of channels that are written in a valid line, by its last flag for them."""
    found = re.findall(r"(?:^|\n)--?config\.model\.channels[=\n](.*)", "\n".join(words))
    numbers = re.findall(r"\d+", found[-1]) if found else base.get_config().model.channels
    return [str(int(number)) for number in numbers]


def try_out(fork: forking.Forking, root: Path, number: int) -> collections.Counter[str]:
    """How many of some random lines are wrong, and how many valid.

    Raises:
      AssertionError: a line is answered badly; it is as short as can be.
    """
    folder, counts = make_folder(root), collections.Counter[str]()
    for command, words in _VALID.items():
        assert answer(fork, folder, command, tuple(words)) == "valid"

    @hypothesis.settings(max_examples=number, deadline=None, database=None)
    @hypothesis.given(line=lines())
    def one(line: tuple[str, tuple[str, ...]]) -> None:
        counts[answer(fork, folder, *line)] += 1

    one()
    return counts


def without_jax(folder: Path) -> str:
    """A PYTHONPATH by which importing JAX ends the process; `folder` is to hold what does it."""
    (folder / "jax.py").write_text("raise SystemExit('JAX was imported')")
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def main() -> int:
    """Tries lines out and says what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=500)
    number = parser.parse_args().number
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with forking.started(root, IMPORTS, PYTHONPATH=without_jax(root)) as fork:
            counts = try_out(fork, root, number)
    sys.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
