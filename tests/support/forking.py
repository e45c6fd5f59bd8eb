"""Python programs, each in a process of its own that is forked from one with the imports done.

What is run is what `python -m` runs, from the parsing of its flags to its exit; it is spared the imports,
which take a second where JAX is among them.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Reads a request a line, and answers it by the number of a process. What that runs it runs at the end of the
# file, so that Python ends it as it ends every program. Its keeper tells how it ended, and leaves it a zombie
# until somebody asks, as the processes are that a program starts by itself.
SERVER = """
import gc, json, os, runpy, signal, sys
{imports}
gc.freeze()  # what all have in common stays in the memory that they share
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    request = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.alarm(300)
    child = os.fork()
    if not child:
        break
    print(child, flush=True)
    end = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with open(request["end"], "w") as file:
        file.write(str(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status))
    os._exit(0)
else:
    sys.exit()
signal.alarm(300)
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["environment"])
for number, path in enumerate((os.devnull, *request["outputs"])):
    os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
sys.path[0], sys.argv[1:] = request["cwd"], request["arguments"]
sys.path[1:1] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
sys.orig_argv[1:] = ["-m", request["module"], *request["arguments"]]
if request["module"]:
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
else:
    exec(request["code"], {{"__name__": "__main__"}})
"""


# What Python and JAX read when they are imported: a program that has it otherwise is not forked.
_READ_BEFORE = ("JAX_", "XLA_", "PYTHON", "LD_", "OMP_", "OPENBLAS_")


class Process:
    """A program that was started; its methods are those of `subprocess.Popen`."""

    def __init__(self, pid: int, end: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end, self._fd = end, os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._fd)

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit status, minus the signal's number where one ended it."""
        if self.returncode is None:
            polling = select.poll()
            polling.register(self._fd, select.POLLIN)
            if not polling.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._end.read_text())
            shutil.rmtree(self._end.parent)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


class Forking:
    """Runs programs; see `started`."""

    def __init__(self, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
        self._process, self._environment, self._lock = process, dict(environment), threading.Lock()

    def __call__(
        self,
        cwd: Path,
        *arguments: str,
        module: str = "",
        code: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Does what `python -m <module> <arguments>` does in a folder, or `python -c <code> <arguments>`."""
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / name for name in ("out", "err")]
            for path in outputs:
                path.touch()
            status = self._start(cwd, arguments, module, code, environment, outputs).wait()
            out, err = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess([module or code, *arguments], status, out, err)

    def _start(
        self,
        cwd: Path,
        arguments: Sequence[str],
        module: str,
        code: str,
        environment: Mapping[str, str] | None,
        outputs: Sequence[Path],
    ) -> Process:
        assert self._process.stdin and self._process.stdout
        end = Path(tempfile.mkdtemp()) / "end"
        os.mkfifo(end)
        request = {
            "cwd": str(cwd),
            "arguments": arguments,
            "module": module,
            "code": code,
            "environment": self._environment if environment is None else dict(environment),
            "outputs": [str(path) for path in outputs],
            "end": str(end),
        }
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        assert answer, f"ended with {self._process.wait()}"
        return Process(int(answer), end)

    def _forks(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether the environment of a command allows that it is forked."""
        assert command[:2] == [sys.executable, "-m"]
        names = self._environment.keys() | environment.keys()
        before = {name for name in names if name.startswith(_READ_BEFORE)}
        if environment.get("PYTHONPATH") == str(ROOT):  # which hides nothing that was imported
            before.remove("PYTHONPATH")
        return all(self._environment.get(name) == environment.get(name) for name in before)

    def start(
        self,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        out: Path,
        err: Path,
        forked: bool = True,
    ) -> Process | subprocess.Popen[str]:
        """Starts a command line `python -m ...`, forked if that is wanted and its environment allows it."""
        out.write_text("")
        err.write_text("")
        if forked and self._forks(command, environment):
            return self._start(cwd, command[3:], command[2], "", environment, (out, err))
        with open(out, "w") as stdout, open(err, "w") as stderr:
            return subprocess.Popen(
                command, cwd=cwd, env=environment, stdout=stdout, stderr=stderr, text=True
            )

    def run(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command line `python -m ...`, forked if its environment allows it."""
        if self._forks(command, environment):
            return self(cwd, *command[3:], module=command[2], environment=environment)
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
