"""What is wrong with a command line that absl or ml_collections cannot parse, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from mmids_cnn import schema
from mmids_cnn.errors import ConfigError


def unparsable(
    argv: Sequence[str], own: Sequence[str], leaves: Mapping[str, Any] | None, error: BaseException
) -> ConfigError:
    """The error of a user about a command line.

    Args:
      argv: the words.
      own: flags of the command, without absl's.
      leaves: of the experiment file, by dotted name; None where none was given.
      error: what parsing raised.
    """
    for name in [word.lstrip("-").partition("=")[0] for word in argv[1:] if word.startswith("-")]:
        section, _, leaf = name.removeprefix("no").partition(".")
        if section == "config" and leaf and leaves is not None and leaf not in leaves:
            inside = [full for full in leaves if full.startswith(leaf + ".")]
            if inside:
                what = f"expected a leaf, got a section; its leaves: {', '.join(inside)}"
            else:
                what = f"no such config key; {schema.nearest(leaf, leaves)}"
            return ConfigError(f"--{name}: {what}")
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config."):
            return ConfigError(f"--{error.flagname}: expected --config=FILE before it; try --config=base")
        hint = schema.nearest(error.flagname, [*own, "help"])
        return ConfigError(f"--{error.flagname}: no such flag; {hint}")
    message = " ".join(str(error).split())
    if isinstance(error, flags.IllegalFlagValueError):
        return ConfigError(_value(message))
    return ConfigError(f"{message}; --help lists the flags")


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
