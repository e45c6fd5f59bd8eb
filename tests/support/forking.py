"""Many short Python programs, each in a process of its own that is forked from one with the imports done."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Reads a request a line, answers it by the exit status. What a child runs it runs at the end of the file, so
# that Python ends it as it ends every program.
SERVER = """
import json, os, runpy, signal, sys
{imports}
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(300)
os.chdir(request["cwd"])
for number, path in enumerate((os.devnull, *request["outputs"])):
    os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
sys.path[0], sys.argv[1:] = request["cwd"], request["arguments"]
if request["module"]:
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
else:
    exec(request["code"], {{"__name__": "__main__"}})
"""


class Forking:
    """Runs programs; see `started`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(
        self, cwd: Path, *arguments: str, module: str = "", code: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Does what `python -m <module> <arguments>` does in a folder, or `python -c <code> <arguments>`."""
        assert self._process.stdin and self._process.stdout
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / name for name in ("out", "err")]
            for path in outputs:
                path.touch()
            request = {
                "cwd": str(cwd),
                "arguments": arguments,
                "module": module,
                "code": code,
                "outputs": [str(path) for path in outputs],
            }
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, f"ended with {self._process.wait()}"
            out, err = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess([module or code, *arguments], int(answer), out, err)


@contextlib.contextmanager
def started(cwd: Path, imports: str, **environment: str) -> Iterator[Forking]:
    """The process to fork from, in a folder where there is nothing to import."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER.format(imports=imports)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Forking(process)
