"""Experiment files: found on the command line, run once, and turned into flags of their leaves."""

import ast
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmids_cnn import networks
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted

_SHIPPED = Path(__file__).parents[1] / "shipped"  # there where the package is installed from a wheel
_ROOT = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).parents[2]
FOLDER = _ROOT / "experiments"
"""This project's own experiment files."""


def given(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`, None if there is none; and the words without it.

    Raises:
      ConfigError: it is given without a value, or more than once.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    found = [word for word in argv[:end] if re.match("--?config(=|$)", word)]
    if len(found) > 1:
        raise ConfigError(f"--config: expected one experiment file, got {len(found)}; give --config once")
    if found and "=" not in found[0]:
        raise ConfigError("--config: expected a value for the flag, got none; give it a file's path")
    rest = [word for index, word in enumerate(argv) if index >= end or word not in found]
    return (found[0].partition("=")[2] if found else None), rest


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
    if not os.path.isfile(path):  # noqa: PTH113, which raises where a name is too long
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
        loader = importlib.machinery.SourceFileLoader("experiment_file", path)  # whatever its ending
        spec = importlib.util.spec_from_loader("experiment_file", loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
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
    """The words with tuples of texts quoted: ml_collections reads `a,b` as names, and `a,m:b` not at all.

    Raises:
      ConfigError: what ml_collections would read as another tuple than is written: a set (`{2, 1}`), a dict,
        bytes, or what has a comment (`16#,32`).
    """
    return [_quoted(word, leaves) for word in argv]


def _quoted(word: str, leaves: Mapping[str, Any]) -> str:
    name, equals, value = word.partition("=")
    old = leaves.get(name.lstrip("-").removeprefix("config."))
    if not isinstance(old, tuple) or not equals:
        return word
    of_texts = old and all(isinstance(one, str) for one in old)
    if of_texts and value.lstrip()[:1] not in ("(", "["):
        return f"{name}={tuple(one.strip() for one in value.split(',') if one.strip())!r}"
    try:
        read = ast.literal_eval(value.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return word  # ml_collections refuses it, or takes it for a text
    if isinstance(read, set | dict | bytes) or "#" in value:
        raise ConfigError(f"{name}: expected values with commas between them, got {value!r}; change the flag")
    return f"{name}={read!r}"


def use_network(config: Any, argv: Sequence[str]) -> None:
    """Where a flag names another network than the file does, gives the section `model` that one's fields.

    So that its fields are flags, and the leaves of the network it replaces are not taken for its own. Of the
    network that the file names, a field that it leaves out becomes a leaf where there is a flag for it, and
    so in the space of a sweep.
    """
    flags = [word.lstrip("-").partition("=")[::2] for word in argv]
    model = _section(config, "model")
    if model is None:
        return
    name = next(
        (value for flag, value in reversed(flags) if flag == "config.model.name" and value), model.get("name")
    )
    known = networks.NETWORKS.get(name)
    if known is None and not dotted.is_dotted(name):
        return  # an unknown name: refused with the others that are there
    fields = dotted.fields(known.source if known else name)
    space = _section(_section(config, "sweep"), "space")
    if name != model.get("name"):
        config.model = ConfigDict({"name": name, **fields})
        if space is not None:
            space.model = ConfigDict({"name": "", **dict.fromkeys(fields, "")})
        return
    for leaves, prefix, values in (
        (model, "config.model.", fields),
        (_section(space, "model"), "config.sweep.space.model.", dict.fromkeys(fields, "")),
    ):
        if leaves is not None:
            given = {flag.removeprefix(prefix) for flag, _ in flags}
            with leaves.unlocked():
                leaves.update({name: values[name] for name in fields if name in given and name not in leaves})


def _section(tree: Any, name: str) -> Any:
    """A section of a configuration, None where there is none."""
    found = None if tree is None else tree.get(name)
    return found if hasattr(found, "items") else None
