"""Kinds of error: what a process exits with, and what a library's user can catch."""

import pytest

from mmids_cnn import errors


@pytest.mark.parametrize(
    ("kind", "base", "status"),
    [
        (errors.ConfigError, ValueError, 2),
        (errors.DataError, ValueError, 2),
        (errors.RunError, RuntimeError, 2),
        (errors.DeviceError, RuntimeError, 2),
        (errors.FaultError, RuntimeError, 1),
        (errors.NonFiniteError, ArithmeticError, 3),
    ],
)
def test_kinds(kind: type[errors.UserError], base: type[Exception], status: int) -> None:
    assert issubclass(kind, errors.UserError) and issubclass(kind, base)
    assert kind("x").exit_status == status
