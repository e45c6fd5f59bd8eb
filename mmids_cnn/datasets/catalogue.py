"""Data sets of the TFDS catalogue: found where TFDS keeps them, or refused at once with what to do."""

import difflib
import hashlib
import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

from mmids_cnn.errors import DataError


def find(name: str, root: Path) -> tuple[Path, str]:
    """Folder of a prepared set, prepared now if that is possible, and a digest of its files.

    Args:
      name: TFDS name, `name[/config][:version]`.
      root: the TFDS data directory.

    Returns:
      The folder, and a SHA-256 over the metadata's content and the names and sizes of all files.

    Raises:
      DataError: the set does not exist, or is not prepared and cannot be. TFDS itself retries for
        minutes without a network, so what it would need is checked first.
    """
    folder = _prepared(name, root)
    if folder is None:
        _require_means_to_prepare(name, root)
        import tensorflow_datasets as tfds

        tfds.builder(name, data_dir=root, file_format="array_record").download_and_prepare()
        folder = _prepared(name, root)
        assert folder is not None
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return folder, digest.hexdigest()


def builder(folder: Path) -> Any:
    """A TFDS builder that reads a prepared set, of whatever version."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


def _prepared(name: str, root: Path) -> Path | None:
    folder = root / name.split(":")[0]
    if folder.parts[len(root.parts)] == "idx_archives":  # not of the catalogue: there lies what we prepared
        return None
    if not os.path.isdir(folder):  # noqa: PTH112, which raises where a name is too long
        return None
    versions = [path.parent for path in folder.glob("**/dataset_info.json")]
    if ":" in name:
        versions = [path for path in versions if path.name == name.split(":")[1]]
    return max(versions, key=lambda path: _version(path.name), default=None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _require_means_to_prepare(name: str, root: Path) -> None:
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    names = tfds.list_builders(with_community_datasets=False)
    if base not in names:
        close = difflib.get_close_matches(base, sorted({"mnist", *names}), n=3, cutoff=0.6)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise DataError(
            f"dataset.name: expected a TFDS data set, got {name!r}; {hint}For a set of your own in IDX "
            "form, set --config.dataset.archives to its folder"
        )
    missing = None
    if importlib.util.find_spec("tensorflow") is None:
        missing = "TensorFlow, which TFDS needs to prepare it, is not installed"
    elif not _online():
        missing = "there is no network to download it from"
    if missing:
        raise DataError(
            f"dataset.name: expected {name!r} prepared in {root / base}, found nothing there, and {missing}; "
            "run `pip install 'mmids_cnn[tensorflow]'` where there is a network and start again, or copy "
            f"a folder prepared elsewhere (file_format=array_record) to {root / base}; for IDX archives "
            "set --config.dataset.archives to their folder"
        )


def _online(host: str = "storage.googleapis.com") -> bool:
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True  # the proxy stands for the network; TFDS will say if it does not answer
    try:
        socket.create_connection((host, 443), timeout=1).close()
    except OSError:
        return False
    return True
