"""Names of the form `module:attribute`, for networks, optimizers and the like of one's own.

A configuration holds text alone, so that it can be written down, sent to another machine and swept. Such a
name says where the thing is found: in any file that can be imported, or beside the experiment file. Nothing
here imports JAX; the modules that are named most likely do.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from mmids_cnn.errors import ConfigError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_PLAIN = (bool, int, float, str)  # what a leaf holds, and tuples of it: see `schema.check_plain`


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
    path = require_source(name, leaf)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise raised(leaf, name, "a module that can be imported", error) from error
    if not hasattr(module, attribute):
        own = sorted(bound for bound in _bindings(path) if not bound.startswith("_"))
        raise ConfigError(
            f"config.{leaf}: expected an attribute of {module_name}, got {name!r}; it has: "
            f"{', '.join(own) or 'nothing'}"
        )
    return getattr(module, attribute)


def call(function: Callable[..., Any], leaf: str, name: str, expected: str, *arguments: Any) -> Any:
    """What a function of a table makes of some arguments, or one of one's own, whose errors are explained.

    Args:
      function: what `name` names.
      leaf: the setting that holds the name.
      name: a key of the table, or a dotted name.
      expected: what it has to be, in words.
      arguments: what it is called with.

    Raises:
      ConfigError: a function of one's own raises.
    """
    try:
        return function(*arguments)
    except Exception as error:  # of code that is not ours, which may raise anything
        if not is_dotted(name) or isinstance(error, ConfigError):
            raise
        raise raised(leaf, name, expected, error) from error


def array(
    function: Callable[..., Any], leaf: str, name: str, expected: str, shape: tuple[int, ...], *arguments: Any
) -> Any:
    """What `call` gives, which has to be an array of a shape, or a plain number where that is ().

    Raises:
      ConfigError: a function of one's own raises, or gives something else.
    """
    made = call(function, leaf, name, expected, *arguments)
    if getattr(made, "shape", () if type(made) in (int, float) else None) != shape:
        found = f"{made.dtype} {made.shape}" if hasattr(made, "shape") else type(made).__name__
        raise ConfigError(f"config.{leaf}: expected {expected}, got {found} from {name!r}; correct it")
    return made


def raised(
    leaf: str, name: str, expected: str, error: BaseException, change: str = "correct it"
) -> ConfigError:
    """The error about something of one's own that raises; in one line, with that of its source."""
    what = " ".join(str(error).partition("\n\n")[0].split())
    known = getattr(getattr(error, "obj", None), "_fields", None)
    has = f", which has {', '.join(known)}" if isinstance(error, AttributeError) and known else ""
    return ConfigError(
        f"config.{leaf}: expected {expected}, got {name!r}, which raised {type(error).__name__}: "
        f"{what}{has}{_where(error)}; {change}"
    )


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
    """SHA-256 of the source that a dotted name names, None where there is none.

    Where that file imports the attribute from another one, it is taken of both, to where it is defined.
    """
    files = [path.read_bytes() for _, path, _ in _places(name)]
    return hashlib.sha256(b"".join(files)).hexdigest() if files else None


def root(name: str) -> Path | None:
    """The folder that has to be on `sys.path` for a dotted name to be found."""
    path = _source(name)
    if path is None:
        return None
    return path.parents[name.partition(":")[0].count(".") + (path.name == "__init__.py")].absolute()


def fields(name: str) -> dict[str, Any]:
    """Settings of a network: the fields of its class and its bases that have defaults a leaf can hold.

    Read without importing anything, so that the command line knows them before JAX is there. A default that
    is computed, or is none of the values of a leaf, is not seen; such a field keeps it, or is set in the
    experiment file.
    """
    found: dict[str, Any] = {}
    for module, _, node in _places(name):
        if not isinstance(node, ast.ClassDef):
            continue
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id != node.name:
                found = fields(f"{module}:{base.id}") | found
            elif isinstance(base, ast.Attribute) and is_dotted(f"{ast.unparse(base.value)}:{base.attr}"):
                found = fields(f"{ast.unparse(base.value)}:{base.attr}") | found
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
                found |= _setting(field.target.id, ast.unparse(field.annotation), field.value)
    return found


def _setting(name: str, annotation: str, default: ast.expr) -> dict[str, Any]:
    """A field and its default, if it is a setting."""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return {}
    each = value if isinstance(value, tuple) else (value,)
    given = name in ("num_classes", "name", "parent") or "ClassVar" in annotation  # none of the user's
    if given or not all(type(one) in _PLAIN for one in each):
        return {}
    return {name: float(value) if annotation == "float" and type(value) is int else value}


def _places(name: str) -> Iterator[tuple[str, Path, ast.stmt | None]]:
    """Where a dotted name leads: module, file, and the statement that binds the attribute there.

    Where that is `from module import attribute`, the same of this module follows, and so on.
    """
    seen = set()
    while name not in seen and (path := _source(name)) is not None:
        seen.add(name)
        module, _, attribute = name.partition(":")
        statement = _bindings(path).get(attribute)
        yield module, path, statement
        if not isinstance(statement, ast.ImportFrom):
            return
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        source = "." * statement.level + (statement.module or "")
        original = next(one.name for one in statement.names if attribute in (one.asname, one.name))
        with contextlib.suppress(ImportError):  # of too many dots
            name = f"{importlib.util.resolve_name(source, package)}:{original}"


def _bindings(path: Path) -> dict[str, ast.stmt]:
    """The names that a file binds at its top, each with the statement that does."""
    found: dict[str, ast.stmt] = {}
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return {}  # importing it will say what is wrong
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.ImportFrom):
            names = [one.asname or one.name for one in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        found |= dict.fromkeys(names, node)
    return found


def _source(name: str) -> Path | None:
    """The file of a module, found as an import would find it, but without importing its packages."""
    first, *inner = name.partition(":")[0].split(".")
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(first)
    except ValueError:  # of a module that was not imported from a file
        return None
    folders, package = list((spec and spec.submodule_search_locations) or ()), first
    for part in inner:
        package += f".{part}"
        try:
            spec = PathFinder.find_spec(package, folders) if folders else None
            folders = list((spec and spec.submodule_search_locations) or ())
        except KeyError:  # without an __init__.py: it asks for its parent, which has not been imported
            inside = [os.path.join(folder, part) for folder in folders]  # noqa: PTH118
            folders = [path for path in inside if os.path.isdir(path)]  # noqa: PTH112
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _where(error: BaseException) -> str:
    """The line of one's own that an error comes from, as far as it is known."""
    others = (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        str(Path(__file__).parents[1]),
        "<",
    )
    own = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(others)]
    return f" in line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
