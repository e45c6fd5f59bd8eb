"""JavaScript without a browser: V8 in this process (mini-racer), else node, else the test is skipped."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Evaluate = Callable[[str], Any]


@contextlib.contextmanager
def engine(source: str) -> Iterator[Evaluate]:
    """Runs a script; what it gives tells the value of an expression after it, which has to be JSON."""
    try:
        from py_mini_racer import MiniRacer
    except ImportError:
        node = shutil.which("node")
        if node is None:
            pytest.skip("neither mini-racer (pip install -e '.[dev]' brings it) nor node is there")
        yield lambda expression: _by_node(node, source, expression)
        return
    with MiniRacer() as context:  # one that is still open when Python ends may keep it from ending
        context.eval(source)
        yield lambda expression: json.loads(str(context.eval(f"JSON.stringify({expression})")))


def _by_node(node: str, source: str, expression: str) -> Any:
    script = f"{source}\nconsole.log(JSON.stringify({expression}));\n"
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
