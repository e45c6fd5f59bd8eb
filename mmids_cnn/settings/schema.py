"""A tree of settings as frozen dataclasses, with a rule at each leaf. Knows no experiment, and never JAX."""

import ast
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted

_PLAIN = (bool, int, float, str)


class Rule(NamedTuple):
    """What is known of a leaf beside its type.

    Attributes:
      expects: what it may be, in words.
      holds: whether a value of the right type is allowed.
      changes_result: False marks what a resumed run may set differently.
      traced: a number that changes neither shapes nor the program: the members of a population may differ in
        it. Float32, or uint32 where it is an integer.
      before: its value in records from before the leaf existed; `...` where there are none.
    """

    expects: str
    holds: Callable[[Any], bool]
    changes_result: bool = True
    traced: bool = False
    before: Any = ...


def leaf(expects: str, holds: Callable[[Any], bool], **more: Any) -> Any:
    """A field with its `Rule`."""
    return dataclasses.field(metadata={"rule": Rule(expects, holds, **more)})


def one_of(*names: str, **more: Any) -> Any:
    """A field that holds one of some names."""
    return leaf("one of " + ", ".join(map(repr, names)), lambda value: value in names, **more)


def named(module: str, table: str, **more: Any) -> Any:
    """A field that holds a key of a table of a core module, or the name of something of one's own.

    The keys are read from the module's source: importing it would import JAX.

    Args:
      module: a module of this package, 'optimizer'.
      table: the dict in it, 'OPTIMIZERS'.
      more: see `Rule`.
    """
    keys = table_keys(module, table)
    expects = f"one of {', '.join(map(repr, keys))}, or 'module:attribute' of your own"
    return leaf(expects, lambda value: value in keys or dotted.is_dotted(value), **more)


def table_keys(module: str, table: str) -> tuple[str, ...]:
    """The keys of a dict that a module of this package defines, from its source."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == table:
            value: Any = node.value  # type: ignore[attr-defined]
            return tuple(ast.literal_eval(key) for key in value.keys)
    raise LookupError(f"{path}: no table {table}")


class Leaf(NamedTuple):
    """A leaf of a tree of dataclasses."""

    hint: Any
    rule: Rule


def leaves(cls: type, prefix: str = "") -> dict[str, Leaf]:
    """All leaves of a section's dataclass that have a rule, by dotted name."""
    found: dict[str, Leaf] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= leaves(hints[field.name], f"{prefix}{field.name}.")
        elif "rule" in field.metadata:
            found[prefix + field.name] = Leaf(hints[field.name], field.metadata["rule"])
    return found


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a tree (dataclasses, mappings) by dotted name, in the tree's order."""
    flat: dict[str, Any] = {}
    for name, value in _items(tree):
        flat |= flatten(value, f"{prefix}{name}.") if is_section(value) else {prefix + name: value}
    return flat


def plain(tree: Any) -> dict[str, Any]:
    """A tree of dataclasses and mappings as nested dicts, fit for JSON; `build` is the inverse."""
    return {name: plain(value) if is_section(value) else value for name, value in _items(tree)}


def is_section(value: Any) -> bool:
    """Whether a value is a part of a tree and no leaf."""
    return dataclasses.is_dataclass(value) or hasattr(value, "items")


def _items(tree: Any) -> Iterable[tuple[str, Any]]:
    return vars(tree).items() if dataclasses.is_dataclass(tree) else tree.items()


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint of an error about an unknown name: the nearest valid one, if any, and the list."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close and "." not in name:  # a leaf named without its section
        close = [full for full in names if full.split(".")[-1] == name]
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}valid names: {', '.join(names)}"


def section(tree: Any, path: str) -> dict[str, Any]:
    """The entries of a section of a tree.

    Raises:
      ConfigError: there is a leaf in its place.
    """
    if not hasattr(tree, "items"):
        raise ConfigError(f"config.{path}: expected a section, got {tree!r}")
    return {str(name): value for name, value in tree.items()}


def build(cls: type, tree: Any, path: str = "", *, recorded: bool = False) -> Any:
    """A section's dataclass out of a mapping, each leaf checked by its rule.

    A field whose class has a `build` of its own is made by that: `build(tree, path, recorded=...)`.

    Args:
      cls: the dataclass.
      tree: nested mappings; lists stand for tuples.
      path: the dotted prefix of the section, with a dot at its end.
      recorded: the tree is a record of an earlier version, perhaps, in which leaves that are new are missing.

    Raises:
      ConfigError: a leaf is unknown, missing, of the wrong type or out of range; the message names it.
    """
    given = section(tree, path[:-1])
    fields = {field.name: field.metadata.get("rule") for field in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise ConfigError(
                f"config.{path}{name}: unknown; {nearest(path + name, (path + f for f in fields))}"
            )
    hints = typing.get_type_hints(cls)
    values = {}
    for name, rule in fields.items():
        if name not in given and recorded and rule is not None and rule.before is not ...:
            values[name] = rule.before
        elif name not in given and not (recorded and dataclasses.is_dataclass(hints[name])):
            raise ConfigError(f"config.{path}{name}: missing; start the experiment from experiments/base.py")
        elif dataclasses.is_dataclass(hints[name]):
            values[name] = build(hints[name], given.get(name, {}), f"{path}{name}.", recorded=recorded)
        elif rule is None:
            values[name] = hints[name].build(given[name], f"{path}{name}.", recorded=recorded)
        else:
            values[name] = check(path + name, Leaf(hints[name], rule), given[name])
    return cls(**values)


def check(path: str, leaf: Leaf, value: Any) -> Any:
    """A value as a leaf holds it: tuples for lists, floats for integers where the leaf is a float.

    Raises:
      ConfigError: it has another type, or the leaf's rule refuses it; the message calls the leaf `path`.
    """
    hint, rule = leaf
    if isinstance(value, str) and not _is_utf8(value):
        raise ConfigError(
            f"config.{path}: expected a text in UTF-8, got {value!a}; set --config.{path}=... or change the "
            "config file"
        )
    if typing.get_origin(hint) is tuple:
        value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        element = typing.get_args(hint)[0]
        typed = isinstance(value, tuple) and all(type(one) is element for one in value)
    elif hint is float:
        value = _to_float(value) if type(value) is int else value
        # Numbers are float32 where they are used: a rule holds there too, or it does not hold.
        with np.errstate(over="ignore"):
            single = float(np.float32(value)) if type(value) is float else math.nan
        typed = math.isfinite(single) and rule.holds(single)
    else:
        typed = type(value) is hint
    if not typed or not rule.holds(value):
        raise ConfigError(
            f"config.{path}: expected {rule.expects}, got {_short(value)}; "
            f"set --config.{path}=... or change the config file"
        )
    return value


def check_plain(path: str, value: Any) -> Any:
    """A value of a leaf that has no rule: a plain value or a tuple of such, which `config.json` can hold.

    Raises:
      ConfigError: it is something else.
    """
    value = tuple(value) if isinstance(value, list) else value
    each = value if isinstance(value, tuple) else (value,)
    if not all(type(one) in _PLAIN for one in each) or any(one in (math.inf, -math.inf) for one in each):
        raise ConfigError(
            f"config.{path}: expected a finite number, a text, true, false or a tuple of such, "
            f"got {value!r}; change the config file"
        )
    return value


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_utf8(text: str) -> bool:
    """False for what Python makes of bytes that are none, on a command line or in a file's name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:100]}... ({len(text):,} characters)"
