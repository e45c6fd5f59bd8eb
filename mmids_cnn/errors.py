"""Errors that a user can act on. Each message says what was expected, what was found, what to change."""

import importlib.util


class UserError(Exception):
    """Base of every error that the command line shows as one line, without a traceback.

    Attributes:
      exit_status: what the process exits with when the error ends it.
    """

    exit_status = 2


class ConfigError(UserError, ValueError):
    """A configuration, flag or argument that cannot be used."""


class DataError(UserError, ValueError):
    """A data set, archive or picture that cannot be used."""


class RunError(UserError, RuntimeError):
    """A run folder that cannot be used or does not fit what was asked of it."""


class DeviceError(UserError, RuntimeError):
    """A device that is not there or cannot be used."""


class FaultError(UserError, RuntimeError):
    """Something outside the command failed while it ran, a full disk for example."""

    exit_status = 1


class NonFiniteError(UserError, ArithmeticError):
    """Training produced a loss or parameters that are not finite."""

    exit_status = 3


def require_package(what: str, package: str, extra: str, instead: str = "") -> None:
    """Raises a `ConfigError` where a package is missing.

    Args:
      what: the flag, leaf or command that needs it.
      package: its name.
      extra: the extra of this package that installs it.
      instead: what one may do without it, ", or ...".
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{what}: expected the package {package}, found none; pip install 'mmids_cnn[{extra}]'{instead}"
        )
