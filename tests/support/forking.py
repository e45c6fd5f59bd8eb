"""Python programs, each in a process of its own that is forked from one with the imports done.

What is run is what `python -m` runs, from the parsing of its flags to its exit; it is spared the imports,
which take a second where JAX is among them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
os.environ.clear()
os.environ.update(request["environment"])
for number, path in enumerate((os.devnull, *request["outputs"])):
    os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
sys.path[0], sys.argv[1:] = request["cwd"], request["arguments"]
sys.orig_argv[1:] = ["-m", request["module"], *request["arguments"]]
if request["module"]:
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
else:
    exec(request["code"], {{"__name__": "__main__"}})
"""


# What Python and JAX read when they are imported: a program that has it otherwise is not forked.
_READ_BEFORE = ("JAX_", "XLA_", "PYTHON", "LD_", "OMP_", "OPENBLAS_")


class Forking:
    """Runs programs; see `started`."""

    def __init__(self, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
        self._process, self._environment = process, dict(environment)

    def __call__(
        self,
        cwd: Path,
        *arguments: str,
        module: str = "",
        code: str = "",
        environment: Mapping[str, str] | None = None,
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
                "environment": self._environment if environment is None else dict(environment),
                "outputs": [str(path) for path in outputs],
            }
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, f"ended with {self._process.wait()}"
            out, err = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess([module or code, *arguments], int(answer), out, err)

    def run(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command line `python -m ...`, forked if its environment allows it."""
        python, option, module, *arguments = command
        names = self._environment.keys() | environment.keys()
        before = [name for name in names if name.startswith(_READ_BEFORE)]
        if all(self._environment.get(name) == environment.get(name) for name in before):
            assert (python, option) == (sys.executable, "-m")
            return self(cwd, *arguments, module=module, environment=environment)
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
        )


@contextlib.contextmanager
def started(cwd: Path, imports: str, **environment: str) -> Iterator[Forking]:
    """The process to fork from, in a folder where there is nothing to import."""
    every = {**os.environ, **environment}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER.format(imports=imports)],
        cwd=cwd,
        env=every,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Forking(process, every)
