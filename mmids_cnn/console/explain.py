"""What is wrong with a command line that absl or ml_collections cannot parse, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import schema


def unparsable(
    argv: Sequence[str],
    own: Sequence[str],
    leaves: Mapping[str, Any] | None,
    error: BaseException,
    takes_arguments: bool = False,
) -> ConfigError:
    """The error of a user about a command line.

    Args:
      argv: the words.
      own: flags of the command, without absl's.
      leaves: of the experiment file, by dotted name; None where none was given.
      error: what parsing raised.
      takes_arguments: whether the command takes words that are no flags, file names for one.
    """
    for name in [word.lstrip("-").partition("=")[0] for word in argv[1:] if word.startswith("-")]:
        if wrong := _no_leaf(name, leaves):
            return wrong
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config.") and "config" in own:
            return ConfigError(f"--{error.flagname}: expected --config=FILE beside it; try --config=base")
        hint = schema.nearest(error.flagname, [*own, "help"])
        alike = [word for word in argv if word.startswith(f"-{error.flagname}")]
        if takes_arguments and alike:
            hint += f"; for a file of that name write -- {alike[0]}"
        return ConfigError(f"--{error.flagname}: no such flag; {hint}")
    message = " ".join(str(error).split())
    if isinstance(error, flags.IllegalFlagValueError):
        return ConfigError(_value(message))
    return ConfigError(f"{message}; --help lists the flags")


def stray(word: str) -> ConfigError:
    """The error about a word that is no flag."""
    name = word.strip().lstrip("-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}")
    hint = f"did you mean --{name}?" if "=" in word else "remove it"
    return ConfigError(f"expected flags only, got the argument {word!r}; {hint}")


def _no_leaf(name: str, leaves: Mapping[str, Any] | None) -> ConfigError | None:
    """The error about a flag that would set a leaf which is none; None about others."""
    section, dot, leaf = name.removeprefix("no").partition(".")
    if section != "config" or not dot or leaves is None or leaf in leaves:
        return None
    inside = [full for full in leaves if leaf and full.startswith(leaf + ".")]
    if inside:
        return ConfigError(f"--{name}: expected a leaf, got a section; its leaves: {', '.join(inside)}")
    return ConfigError(f"--{name}: no such config key; {schema.nearest(leaf, leaves)}")


def _value(message: str) -> str:
    """`flag --config.seed=x: invalid literal …` as expected and found."""
    flag, _, reason = message.removeprefix("flag ").partition(": ")
    name, _, value = flag.partition("=")
    expected = "a value of the type that the config file has there"
    if "should be one of" in reason:
        expected = reason.partition("should be ")[2].strip()
    for kind, mark in (("an integer", "int()"), ("a number", "to float"), ("true or false", "boolean")):
        expected = kind if mark in reason else expected
    return f"{name}: expected {expected}, got {value!r}; change the flag"
