"""A training process driven line by line; peers/protocol.py is the other end."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class ChildError(RuntimeError):
    """A child process ended without an answer; the message is the last line it printed."""


class Child:
    """One process: started at construction, idle except while it answers `ask`.

    Args:
        command: program and arguments.
        env: variables added to this process's own.

    Raises:
        ChildError: the process ended before its first answer.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [*command, "--spawned", repr(time.time())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **env},
        )
        self.first_reply = self._read()

    def ask(self, request: str) -> dict:
        """Sends one request; returns the answer and `foreign_cores`, how many cores others used.

        The machine's other processes slow a timing down, some libraries out of all proportion.
        `foreign_cores` is 0 where it can't be told, without Linux's /proc.
        """
        busy, start = busy_seconds(), time.perf_counter()
        with suppress(BrokenPipeError):  # `_read` says why the process ended
            print(json.dumps({"do": request}), file=self._process.stdin, flush=True)
        reply = self._read()
        others = busy_seconds() - busy - reply.get("cpu_seconds", 0.0)
        return reply | {"foreign_cores": max(0.0, others / (time.perf_counter() - start))}

    def quit(self) -> dict:
        """Ends the process; returns its last answer, {"peak_rss_bytes"}."""
        reply = self.ask("quit")
        self._process.wait()
        return reply

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None  # it is a pipe
        if line := self._process.stdout.readline():
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        lines = [text.strip() for text in self._errors if text.strip()]
        raise ChildError(lines[-1] if lines else f"ended with status {status}, printing nothing")


def busy_seconds() -> float:
    """Processor time the whole machine has spent working since it started, in seconds."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system = (int(field) for field in stat.read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
