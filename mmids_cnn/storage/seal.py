"""Orbax's handler of a state, made to commit the SHA-256 of each file together with the files.

Orbax parses whatever bytes it finds, and where some are wrong it reads on in the background after it has
raised. So the files are checked before it sees them.
"""

import hashlib
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from mmids_cnn.storage import files

_SEAL = "sha256.json"


class SealedHandler(ocp.StandardCheckpointHandler):
    """Saves and restores a PyTree of arrays as its base does, and writes the seal."""

    def finalize(self, directory: Any) -> None:
        """Called by Orbax when all is written, before the folder gets its name."""
        super().finalize(directory)
        folder = Path(directory)
        files.write_json(folder / _SEAL, _digests(folder))


def check_files(folder: Path) -> None:
    """Raises `ValueError` or `RunError` unless each file in a folder has the bytes that were sealed."""
    expected, found = files.read_json(folder / _SEAL), _digests(folder)
    for name, digest in expected.items():
        if name not in found:
            raise ValueError(f"no {name}")
        if digest != found[name]:
            raise ValueError(f"other bytes than were saved in {name}")


def _digests(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _SEAL)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
