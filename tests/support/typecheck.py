"""The checker of shapes and dtypes that the tests put around the functions of the package."""

from typing import Any

import beartype


def checked(function: Any, *_: Any, **__: Any) -> Any:
    """Beartype, but for `__init__`: JAX rebuilds a PyTree's dataclass around leaves that are no arrays."""
    return function if function.__name__ == "__init__" else beartype.beartype(function)
