"""Names of the form `module:attribute`, for networks, optimizers and the like of one's own.

A configuration holds text alone, so that it can be written down, sent to another machine and swept. Such a
name says where the thing is found: in any file that can be imported, or beside the experiment file. Nothing
here imports JAX; the modules that are named most likely do.
"""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmids_cnn.errors import ConfigError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_dotted(name: Any) -> bool:
    """Whether a text has the form `module:attribute`."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def look_up(table: Mapping[str, Any], name: str, leaf: str) -> Any:
    """A row of a table by its key, or what a dotted name names; `leaf` is the setting that holds the name.

    Raises:
      ConfigError: see `load`.
    """
    return table[name] if name in table else load(name, leaf)


def load(name: str, leaf: str) -> Any:
    """Imports what a dotted name names.

    Raises:
      ConfigError: the module is not found or raises, or has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    require_source(name, leaf)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"config.{leaf}: expected a module that can be imported, got {name!r}, which raised "
            f"{type(error).__name__}: {error}{_where(error)}; correct it"
        ) from error
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        raise ConfigError(
            f"config.{leaf}: expected an attribute of {module_name}, got {name!r}; it defines: "
            f"{', '.join(sorted(own)) or 'nothing'}"
        )
    return getattr(module, attribute)


def wrong(leaf: str, name: str, expected: str, found: Any) -> ConfigError:
    """The error about something of one's own that is not what a leaf needs."""
    return ConfigError(
        f"config.{leaf}: expected {expected}, got {name!r}, which is {type(found).__name__}; correct it"
    )


def require_source(name: str, leaf: str) -> Path:
    """The file of the module that a dotted name names; nothing of it is run.

    Raises:
      ConfigError: there is none.
    """
    path = _source(name)
    if path is None:
        module = name.partition(":")[0]
        raise ConfigError(
            f"config.{leaf}: expected a module that can be imported, got {name!r}: no {module} in the "
            "working directory, beside the experiment file, or installed; correct the name, or add its "
            "folder to PYTHONPATH"
        )
    return path


def digest(name: str) -> str | None:
    """SHA-256 of the source that a dotted name names, None where there is none."""
    path = _source(name)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def root(name: str) -> Path | None:
    """The folder that has to be on `sys.path` for a dotted name to be found."""
    path = _source(name)
    return None if path is None else path.parents[name.partition(":")[0].count(".")].absolute()


def fields(name: str) -> dict[str, Any]:
    """Fields of a dataclass with their defaults, as far as its source has them as literals.

    Read without importing anything, so that the command line knows the settings of a network before JAX is
    there. What a base class defines, or a default that is computed, is not seen; such a field keeps its
    default, or is set in the experiment file.
    """
    path, attribute = _source(name), name.partition(":")[2]
    if path is None:
        return {}
    found = {}
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, UnicodeDecodeError):
        return {}  # importing it will say what is wrong
    for node in body:
        if not isinstance(node, ast.ClassDef) or node.name != attribute:
            continue
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
                try:
                    found[field.target.id] = ast.literal_eval(field.value)
                except ValueError:
                    continue
    return found


def _source(name: str) -> Path | None:
    """The file of a module, found as an import would find it; parent packages are imported."""
    module = name.partition(":")[0]
    try:
        loaded = sys.modules.get(module)
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(module)
    except Exception:  # of a parent package, which may raise anything
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f" in line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
