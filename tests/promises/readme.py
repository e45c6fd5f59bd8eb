"""Runs every command of the README, exactly as it is written, in a fresh clone of this checkout.

    make readme

One shell runs them in their order, as a newcomer would, in an empty folder with a photograph of a digit.
Their sweeps take most of an hour. Exit status 0: every command had it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmids_cnn.console.terminal import clock
from mmids_cnn.datasets import idx

ROOT = Path(__file__).parents[2]
_STARTS = ("git ", "make ", ". ", "python ", "pip ", "for ")
_MARK = "readme-status"


def commands(text: str) -> list[str]:
    """The commands of a page: what is indented and begins as one does; lines that go on are joined."""
    joined = text.replace("\\\n", "")
    lines = [line.removeprefix("    ") for line in joined.splitlines() if line.startswith("    ")]
    return [line for line in lines if line.startswith(_STARTS)]


def draw_photograph(path: Path) -> None:
    """A digit of the test split as a photograph: dark ink on a page in uneven light."""
    (digit,) = idx.read(idx.SHIPPED / "t10k-images-idx3-ubyte.gz")[:1]
    ink = np.asarray(Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC), float) / 255
    page = 230 - 50 * np.linspace(0, 1, 640)[None, :] * np.ones((480, 1))
    page[100:380, 180:460] *= 1 - 0.8 * ink
    Image.fromarray(page.astype(np.uint8)).save(path)


def run(folder: Path, console: Console) -> list[tuple[str, int, float]]:
    """Each command with its exit status and its seconds."""
    found = []
    # No virtual environment of whoever calls this: the README makes its own.
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    clean["PATH"] = os.pathsep.join(
        part for part in clean["PATH"].split(os.pathsep) if not part.startswith(str(ROOT))
    )
    with subprocess.Popen(
        ["bash"], cwd=folder, env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        for command in commands((ROOT / "README.md").read_text()):
            typed, began = command.replace("<this repository>", f"{ROOT} mmids_cnn"), time.monotonic()
            console.rule(command)
            shell.stdin.write(f"{typed}\necho {_MARK} $?\n")
            shell.stdin.flush()
            for line in shell.stdout:
                if line.startswith(_MARK):
                    found.append((command, int(line.split()[1]), time.monotonic() - began))
                    break
                console.print(line.rstrip("\n"), markup=False, highlight=False)
            if command.startswith("git clone"):
                draw_photograph(folder / "mmids_cnn" / "photo.jpg")
        shell.stdin.close()
    return found


def main() -> int:
    """Runs them, and shows a table of how each ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), console)
    table = Table("command", "exit status", "time")
    for command, status, seconds in found:
        table.add_row(command, str(status), clock(seconds), style="red" if status else None)
    console.print(table)
    return int(any(status for _, status, _ in found))


if __name__ == "__main__":
    sys.exit(main())
