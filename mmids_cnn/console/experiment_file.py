"""Experiment files: found on the command line, run once, and turned into flags of their leaves."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmids_cnn import dotted, networks
from mmids_cnn.errors import ConfigError

_SHIPPED = Path(__file__).parents[1] / "shipped"  # there where the package is installed from a wheel
_ROOT = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).parents[2]
FOLDER = _ROOT / "experiments"
"""This project's own experiment files."""


def given(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`, the last one, None if there is none; and the words without it.

    Raises:
      ConfigError: it ends the line and has no value.
    """
    path: str | None = None
    rest, words = list[str](), iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            path = value if equals else next(words, None)
            if path is None:
                raise ConfigError("--config: expected a value for the flag, got none; give it a file's path")
        else:
            rest.append(word)
    return path, rest


def add_roots(folders: Iterable[Path | str]) -> None:
    """Lets Python import from some folders too, after all others."""
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def load(path_and_word: str) -> Any:
    """Loads an experiment file, which is Python and is trusted: its `get_config()` is called.

    It may import what lies beside it, and `from experiments import base`.

    Args:
      path_and_word: the file's path, or the name of one of this project's own, such as 'base'; of `path:word`
        the word is passed to `get_config`.

    Raises:
      ConfigError: it is missing, raises, or returns no config.
    """
    path, *words = path_and_word.split(":", 1)
    if not Path(path).is_file():
        own = {file.stem: str(file) for file in sorted(FOLDER.glob("*.py"))}
        if path not in own:
            raise ConfigError(
                f"--config: expected a config file, found none at {path!r}; give its path, or one of "
                f"{', '.join(own)}"
            )
        path = own[path]
    folder = Path(path).absolute().parent
    add_roots([_ROOT, folder.parent, folder])
    try:
        spec = importlib.util.spec_from_file_location("experiment_file", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*words)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == Path(path).absolute()]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines = [error.lineno]
        where = f" in line {lines[-1]}" if lines else ""
        raise ConfigError(
            f"--config: expected {path} to define get_config(), but it raised "
            f"{type(error).__name__}: {error}{where}; correct the file"
        ) from error
    if not hasattr(config, "to_dict"):
        raise ConfigError(
            f"--config: expected get_config() of {path} to return a ConfigDict, got {config!r}; "
            "start from experiments/base.py"
        )
    return config


def quote_tuples(argv: Sequence[str], leaves: Mapping[str, Any]) -> list[str]:
    """The words with tuples of texts quoted: ml_collections reads `a,b` as names, and `a,m:b` not at all."""
    return [_quoted(word, leaves) for word in argv]


def _quoted(word: str, leaves: Mapping[str, Any]) -> str:
    name, equals, value = word.partition("=")
    old = leaves.get(name.lstrip("-").removeprefix("config."))
    of_texts = isinstance(old, tuple) and old and all(isinstance(one, str) for one in old)
    if not of_texts or not equals or value.lstrip()[:1] in ("(", "["):
        return word
    return f"{name}={tuple(one.strip() for one in value.split(',') if one.strip())!r}"


def use_network(config: Any, argv: Sequence[str]) -> None:
    """Where a flag names another network than the file does, gives the section `model` that one's fields.

    So that its fields are flags, and the leaves of the network it replaces are not taken for its own.
    """
    names = [word.partition("=")[2] for word in argv if word.lstrip("-").startswith("config.model.name=")]
    model = config.get("model")
    if not names or not hasattr(model, "items") or names[-1] == model.get("name"):
        return
    known = networks.NETWORKS.get(names[-1])
    if known is None and not dotted.is_dotted(names[-1]):
        return  # an unknown name: refused with the others that are there
    fields = dotted.fields(known.source if known else names[-1])
    config.model = ConfigDict({"name": names[-1], **fields})
    if hasattr(config.get("sweep"), "items") and hasattr(config.sweep.get("space"), "items"):
        config.sweep.space.model = ConfigDict({"name": "", **dict.fromkeys(fields, "")})
