"""Preparing data through TFDS and caching it: right arrays, whatever happened to the folder before."""

import dataclasses
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.datasets import builder, catalogue, idx
from mmids_cnn.errors import DataError
from tests.support import idx_files, processes

DIGITS = idx_files.digits(30, 12)
DEFAULT = config_lib.resolve(base.get_config()).dataset

DRIVER = """
import dataclasses, json, os, pathlib, signal, sys, time
from experiments import base
from mmids_cnn import config, data
from mmids_cnn.datasets import cache
settings = json.loads(sys.argv[1])
dataset = dataclasses.replace(config.resolve(base.get_config()).dataset, **settings)
"""


def own(folder: Path, **changes: Any) -> config_lib.Dataset:
    """The settings of a small set in IDX form whose archives and data lie in a folder."""
    archives = folder / "archives"
    if not archives.exists():
        idx_files.write_set(archives, DIGITS)
    settings = {"name": "fashion_mnist", "archives": str(archives), "data_dir": str(folder / "data")}
    return dataclasses.replace(DEFAULT, **(settings | changes))


def assert_right(dataset: data.Dataset, arrays: idx_files.Arrays = DIGITS) -> None:
    for split in idx.SPLITS:
        np.testing.assert_array_equal(dataset.splits[split].images[..., 0], arrays[split, "images"])
        np.testing.assert_array_equal(dataset.splits[split].labels, arrays[split, "labels"])
    assert dataset.num_classes == 10


def flip(path: Path, position: float) -> None:
    """Flips a bit of one of the bytes that are not zero: padding does not matter."""
    content = bytearray(path.read_bytes())
    places = np.flatnonzero(np.frombuffer(content, np.uint8))
    content[places[int(position * (len(places) - 1))]] ^= 0x10
    path.write_bytes(content)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how.startswith("flipped"):
        flip(path, {"first": 0, "middle": 0.5, "last": 1}[how.split()[1]])
    else:
        changed = {"emptied": b"", "halved": content[: len(content) // 2], "longer": content + b"\0"}
        path.write_bytes(changed[how])


DAMAGES = [
    "deleted",
    "emptied",
    "halved",
    "longer",
    "flipped first byte",
    "flipped middle byte",
    "flipped last byte",
]


def driver(code: str, settings: config_lib.Dataset) -> list[str]:
    """The command that runs lines of code in a process of their own; `dataset` holds the settings there."""
    return [sys.executable, "-W", "error", "-c", DRIVER + code, json.dumps(dataclasses.asdict(settings))]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(processes.ROOT), **extra}


def test_all_of_mnist_is_what_the_archives_hold(mnist: data.Dataset) -> None:
    archives = idx.find("mnist", "")
    assert set(mnist.splits) == {"train", "test"}
    for split, size in (("train", 60_000), ("test", 10_000)):
        images, labels = idx.read_split(archives, split)
        assert len(images) == len(labels) == size
        np.testing.assert_array_equal(mnist.splits[split].images, images, strict=True)
        np.testing.assert_array_equal(mnist.splits[split].labels, labels, strict=True)
    assert (mnist.image_shape, mnist.num_classes) == ((28, 28, 1), 10)
    assert not mnist.splits["train"].images.flags.writeable


def test_tfds_alone_reads_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is left, in the folder for temporary files neither."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    data.load(own(tmp_path))
    assert not list((tmp_path / "temporary").iterdir())
    (folder,) = (tmp_path / "data").glob("idx_archives/fashion_mnist-*/*")
    for split in ("train", "test"):
        source = tfds.builder_from_directory(folder).as_data_source(split)
        assert len(source) == len(DIGITS[split, "labels"])
        for index, example in enumerate(source):
            np.testing.assert_array_equal(
                example["image"][..., 0], DIGITS[split, "images"][index], strict=True
            )
            assert example["label"] == DIGITS[split, "labels"][index]


def test_what_is_imported(tmp_path: Path) -> None:
    """TFDS the first time only, TensorFlow and JAX never; a TensorFlow that breaks does no harm."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = (
        "data.load(dataset)\n"
        "print(*(name for name in ('jax', 'tensorflow', 'tensorflow_datasets') if name in sys.modules))"
    )
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    printed = [
        subprocess.run(
            driver(code, own(tmp_path)),
            env=environment(PYTHONPATH=path),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    assert printed == ["tensorflow_datasets\n", "\n"]


@pytest.mark.parametrize("value", [None, "/some/where", "~/some where"])
def test_default_folder_is_that_of_tfds(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", value)
    expected = Path(tfds.core.constants.get_default_data_dir()).expanduser()
    assert data.data_dir(DEFAULT) == expected
    assert data.data_dir(dataclasses.replace(DEFAULT, data_dir="~/x")) == Path.home() / "x"
    assert data.data_dir(dataclasses.replace(DEFAULT, data_dir="x")) == Path.cwd() / "x"
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    assert data.data_dir(DEFAULT) == Path.home() / "tensorflow_datasets"


def test_whole_cache_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load(own(tmp_path))
    monkeypatch.setattr(builder, "IdxArchives", None)
    assert_right(data.load(own(tmp_path)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache of a small set, just filled."""
    assert_right(data.load(own(tmp_path)))
    (folder,) = (tmp_path / "data" / "mmids_cnn").glob("fashion_mnist-*[0-9a-f]")
    return folder


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "test_images.npy", "manifest.json"])
def test_damaged_cache_is_made_again(tmp_path: Path, cache: Path, name: str, how: str) -> None:
    before = (cache / name).read_bytes()
    damage(cache / name, how)
    assert_right(data.load(own(tmp_path)))
    if name != "manifest.json":
        assert (cache / name).read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: [],
        lambda manifest: {},
        lambda manifest: manifest | {"files": {}},
        lambda manifest: manifest | {"files": None},
        lambda manifest: {"files": manifest["files"]},
        lambda manifest: manifest | {"num_classes": 11},
        lambda manifest: manifest | {"num_classes": "10"},
        lambda manifest: manifest | {"files": dict([*manifest["files"].items()][:3])},
    ],
)
def test_changed_manifest_is_not_trusted(tmp_path: Path, cache: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps(change(content)))
    assert_right(data.load(own(tmp_path)))


def test_arrays_of_another_set_are_not_trusted(tmp_path: Path, cache: Path) -> None:
    np.save(cache / "test_labels.npy", np.zeros(12, np.int32))
    assert_right(data.load(own(tmp_path)))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "name", ["*train.array_record*", "*test.array_record*", "dataset_info.json", "features.json"]
)
def test_damaged_array_record_is_prepared_again(tmp_path: Path, cache: Path, name: str, how: str) -> None:
    for path in cache.iterdir():
        path.unlink()
    (path,) = (tmp_path / "data").glob(f"idx_archives/*/*/{name}")
    damage(path, how)
    assert_right(data.load(own(tmp_path)))


def killed(settings: config_lib.Dataset, moment: str) -> None:
    """Prepares a set in a process that SIGKILL ends at a moment."""
    code = (
        f"kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\nquiet = lambda *_: None\n{moment}\n"
    )
    done = subprocess.run(driver(code, settings), env=environment(), stderr=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


MOMENTS = {
    "preparing": "data.load(dataset, lambda what, *_: kill() if what.startswith('preparing') else None)",
    "writing arrays": (
        "write = cache._write_array\n"
        "cache._write_array = lambda path, array: kill() if 'test' in path.name else write(path, array)\n"
        "data.load(dataset)"
    ),
    "writing the manifest": "cache.files.write_json = kill; data.load(dataset)",
    "before the rename": (
        "replace = os.replace\n"
        "os.replace = lambda a, b: kill() if pathlib.Path(a).is_dir() else replace(a, b)\n"
        "data.load(dataset)"
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_leaves_nothing_that_is_trusted(tmp_path: Path, moment: str) -> None:
    killed(own(tmp_path), MOMENTS[moment])
    said: list[str] = []
    assert_right(data.load(own(tmp_path), lambda what, done, total: said.append(what)))
    assert ("decoding train" in said) == (moment != "preparing")  # of a whole record
    left = {path.name for path in (tmp_path / "data").rglob("*")}
    assert not [name for name in left if "partial" in name or "incomplete" in name]


@pytest.mark.soak
@pytest.mark.parametrize("split", ["train", "test"])
def test_kill_while_a_record_is_decoded(tmp_path: Path, cache: Path, split: str) -> None:
    shutil.rmtree(cache)
    killed(
        own(tmp_path), f"data.load(dataset, lambda what, *_: kill() if what == 'decoding {split}' else None)"
    )
    assert_right(data.load(own(tmp_path)))
    assert not list((tmp_path / "data").rglob("*partial*"))


def test_kill_while_a_damaged_cache_is_replaced(tmp_path: Path, cache: Path) -> None:
    flip(cache / "test_images.npy", 0.9)
    killed(own(tmp_path), "import shutil; shutil.rmtree = kill\n" + MOMENTS["before the rename"])
    assert_right(data.load(own(tmp_path)))


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    """The first waits in the middle until the second has found it at work."""
    code = """
def report(what, done, total):
    print(what, file=sys.__stdout__, flush=True)  # while TFDS prepares, sys.stdout is not it
    if what.startswith("preparing"):
        (folder / "started").touch()
        while not (folder / "waiting").exists():
            time.sleep(0.01)
    if what.startswith("waiting for"):
        (folder / "waiting").touch()
folder = pathlib.Path(dataset.data_dir).parent
print(data.load(dataset, report).fingerprint)
"""
    settings = own(tmp_path)
    first = subprocess.Popen(driver(code, settings), env=environment(), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.Popen(driver(code, settings), env=environment(), stdout=subprocess.PIPE, text=True)
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert [line.split(" of ")[0] for line in outputs[0][:-1]] == ["preparing fashion_mnist"]
    assert len(outputs[1]) == 2
    assert outputs[1][0].startswith(f"waiting for process {first.pid} on {socket.gethostname()}")
    assert outputs[0][-1] == outputs[1][-1] == data.load(settings).fingerprint


def test_validation_examples_are_the_end_of_the_training_split(tmp_path: Path) -> None:
    whole = data.load(own(tmp_path))
    parted = data.load(own(tmp_path, validation_examples=7))
    assert {name: len(split.labels) for name, split in parted.splits.items()} == {
        "train": 23,
        "validation": 7,
        "test": 12,
    }
    for array in ("images", "labels"):
        joined = [getattr(parted.splits[name], array) for name in ("train", "validation")]
        np.testing.assert_array_equal(np.concatenate(joined), getattr(whole.splits["train"], array))
    np.testing.assert_array_equal(parted.splits["test"].images, whole.splits["test"].images)
    assert parted.fingerprint == whole.fingerprint
    assert len(data.load(own(tmp_path, validation_examples=29)).splits["train"].labels) == 1


@pytest.mark.parametrize("count", [30, 31, 10**9])
def test_nothing_left_to_train_on(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=r"validation_examples: expected fewer than the 30 training .*, got "):
        data.load(own(tmp_path, validation_examples=count))


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    packed = data.load(own(tmp_path / "packed")).fingerprint
    idx_files.write_set(tmp_path / "plain" / "archives", DIGITS, suffix="", prefix="other-")
    assert data.load(own(tmp_path / "plain", name="other")).fingerprint == packed
    changed = DIGITS["test", "labels"].copy()
    changed[0] ^= 1
    idx_files.write_set(tmp_path / "changed" / "archives", DIGITS | {("test", "labels"): changed})
    assert data.load(own(tmp_path / "changed")).fingerprint != packed


def test_archives_that_change_are_prepared_anew(tmp_path: Path) -> None:
    data.load(own(tmp_path))
    changed = idx_files.digits(25, 11)
    idx_files.write_set(tmp_path / "archives", changed)
    assert_right(data.load(own(tmp_path)), changed)


@pytest.mark.parametrize("name", ["..", "a b", "ä/ö:1", "[a-z]*?", "-", "x" * 100])
def test_odd_names(tmp_path: Path, name: str) -> None:
    assert_right(data.load(own(tmp_path, name=name)))
    assert {path.name for path in tmp_path.iterdir()} == {"archives", "data"}
    (stale,) = [path for path in (tmp_path / "data" / "mmids_cnn").iterdir() if path.is_dir()]
    stale.rename(stale.with_name(stale.name + ".partial-of-a-killed-run"))
    assert_right(data.load(own(tmp_path, name=name)))
    assert sum(path.is_dir() for path in (tmp_path / "data" / "mmids_cnn").iterdir()) == 1


@pytest.mark.parametrize("place", ["a-file", "a-file/below", "/proc/x", "y" * 300])
def test_data_folder_that_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").touch()
    expected = (
        r"^dataset\.data_dir: expected a folder that can be written, .*; set --config\.dataset\.data_dir"
    )
    with pytest.raises(DataError, match=expected) as caught:
        data.load(own(tmp_path, data_dir=str(tmp_path / place)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [1_000, 200_000], ids=["record", "images"])
def test_file_that_cannot_grow(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for a full disk."""
    idx_files.write_set(tmp_path / "archives", idx_files.digits(300, 100))
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n    data.load(dataset)\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        driver(code, own(tmp_path)), env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.startswith("FaultError preparing fashion_mnist in ")
    assert "File too large" in done.stdout
    assert_right(data.load(own(tmp_path)), idx_files.digits(300, 100))


def test_flat() -> None:
    images = DIGITS["train", "images"][..., None]
    rows = data.flat(images)
    assert (rows.shape, rows.dtype) == ((30, 784), np.float32)
    np.testing.assert_array_equal(rows[3, 28 * 5 : 28 * 6], images[3, 5, :, 0].astype(np.float32) / 255)
    assert (rows.min(), rows.max()) == (0, 1)
    assert data.flat(images[0]).shape == (784,)


# Sets of the TFDS catalogue.


@pytest.mark.parametrize(
    ("tensorflow", "reason"), [(False, "TensorFlow, which TFDS needs"), (True, "there is no network")]
)
def test_catalogue_set_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorflow: bool, reason: str
) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise OSError("network is unreachable")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: tensorflow or None)
    with pytest.raises(DataError) as caught:
        data.load(own(tmp_path, name="cifar10", archives=""))
    message = str(caught.value)
    assert message.startswith(f"dataset.name: expected 'cifar10' prepared in {tmp_path}/data/cifar10, ")
    assert reason in message
    assert "pip install 'mmids_cnn[tensorflow]'" in message
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cifar_10", "cifar10"), ("mnsit", "mnist"), ("mnist_corupted/x:1.0.0", "mnist_corrupted")],
)
def test_unknown_name_suggests_others(tmp_path: Path, name: str, meant: str) -> None:
    with pytest.raises(DataError) as caught:
        data.load(own(tmp_path, name=name, archives=""))
    found = str(caught.value).partition("did you mean ")[2].partition("?")[0].split(", ")
    assert found[0] == meant
    assert len(set(found)) == len(found)


def test_name_like_no_other(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got 'qqqqq'; For a set of your own|got 'qqqqq'; .*archives"):
        data.load(own(tmp_path, name="qqqqq", archives=""))


def png(image: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def prepared(
    folder: Path,
    feature: Any,
    encode: Callable[[np.ndarray], Any],
    *,
    name: str = "own_digits",
    label: Any = None,
    splits: tuple[str, ...] = ("train", "test"),
    supervised: tuple[str, str] | None = ("image", "label"),
) -> Path:
    """Prepares a set of our digits as TFDS does, by code that later runs do not have; returns its folder."""
    set_name, feature_of_label = name, label or tfds.features.ClassLabel(num_classes=10)

    with tfds.core.registered.skip_registration():

        class OwnDigits(tfds.core.GeneratorBasedBuilder):
            name = set_name
            VERSION = tfds.core.Version("1.2.3")

            def _info(self) -> tfds.core.DatasetInfo:
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict({"image": feature, "label": feature_of_label}),
                    supervised_keys=supervised,
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, Any]]:
                images, labels = (DIGITS[split, kind] for kind in ("images", "labels"))
                for index, (image, number) in enumerate(zip(images, labels, strict=True)):
                    yield index, {"image": encode(image), "label": int(number)}

    tfds.disable_progress_bar()
    made = OwnDigits(data_dir=str(folder), file_format="array_record")
    made.download_and_prepare()
    return Path(made.data_dir)


def of_catalogue(folder: Path, name: str = "own_digits") -> config_lib.Dataset:
    return dataclasses.replace(DEFAULT, name=name, data_dir=str(folder))


TENSOR = (tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8), lambda image: image[..., None])
FEATURES: dict[str, tuple[Any, Callable[[np.ndarray], Any]]] = {
    "png": (tfds.features.Image(shape=(28, 28, 1)), png),
    "tensor": TENSOR,
}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", ["own_digits", "own_digits:1.2.3"])
def test_prepared_catalogue_set(tmp_path: Path, feature: str, name: str) -> None:
    prepared(tmp_path, *FEATURES[feature])
    assert_right(data.load(of_catalogue(tmp_path, name)))
    settings = of_catalogue(tmp_path, name)
    code = "data.load(dataset)\nprint('tensorflow_datasets' in sys.modules)"
    done = subprocess.run(driver(code, settings), env=environment(), check=True, stdout=subprocess.PIPE)
    assert done.stdout == b"False\n"


def test_version_that_is_not_there(tmp_path: Path) -> None:
    prepared(tmp_path, *TENSOR)
    with pytest.raises(DataError, match=r"own_digits:9\.9\.9"):
        data.load(of_catalogue(tmp_path, "own_digits:9.9.9"))


def test_prepared_version_is_read_though_the_code_makes_a_newer_one(tmp_path: Path) -> None:
    class NewerDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(builder=self)

        def _split_generators(self, dl_manager: Any) -> Any:
            raise AssertionError("prepared once more")  # in truth: downloaded, for minutes without a network

        def _generate_examples(self) -> Any: ...

    prepared(tmp_path, *TENSOR, name="newer_digits")  # 1.2.3
    assert_right(data.load(of_catalogue(tmp_path, "newer_digits")))


def test_labels_without_names(tmp_path: Path) -> None:
    prepared(tmp_path, *TENSOR, label=tfds.features.Scalar(dtype=np.int64))
    assert_right(data.load(of_catalogue(tmp_path)))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"supervised": None}, "own_digits with splits train, test"),
        ({"splits": ("train",)}, "own_digits with splits train; "),
        ({"feature": tfds.features.Tensor(shape=(28, 28), dtype=np.uint8), "encode": np.asarray}, "28, 28"),
        (
            {
                "feature": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.float32),
                "encode": lambda image: image[..., None].astype(np.float32),
            },
            "float32",
        ),
        (
            {
                "feature": tfds.features.Image(shape=(None, 28, 1)),
                "encode": lambda image: png(image[: 20 + image[14, 14] % 2]),
            },
            "expected uint8 images of one shape",
        ),
    ],
    ids=["no labels", "no test split", "no channels", "float", "sizes differ"],
)
def test_set_of_another_kind(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    folder = prepared(tmp_path, **(dict(zip(("feature", "encode"), TENSOR, strict=True)) | options))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DataError, match=found):
        data.load(of_catalogue(tmp_path))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("how", ["emptied", "halved", "flipped middle byte"])
def test_damaged_catalogue_set_is_left_where_it_is(tmp_path: Path, how: str) -> None:
    """It may have been downloaded for hours: only its owner may delete it."""
    folder = prepared(tmp_path, *TENSOR)
    (path,) = folder.glob("*test.array_record*")
    damage(path, how)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DataError, match=str(folder)):
        data.load(of_catalogue(tmp_path))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_set_prepared_in_another_format_is_left_where_it_is(tmp_path: Path) -> None:
    """TFDS's default is TFRecord, which needs TensorFlow and cannot be indexed."""
    folder = prepared(tmp_path, *TENSOR)
    for path in folder.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace("array_record", "tfrecord"))
    before = sorted(folder.iterdir())
    with pytest.raises(DataError, match=r"own_digits.*array_record"):
        data.load(of_catalogue(tmp_path))
    assert sorted(folder.iterdir()) == before


def test_names_of_a_catalogue_set_are_kept(tmp_path: Path) -> None:
    names = ["zero", *"abcdefghi"]
    prepared(tmp_path, *TENSOR, label=tfds.features.ClassLabel(names=names))
    assert data.load(of_catalogue(tmp_path)).class_names == tuple(names)  # decoded
    assert data.load(of_catalogue(tmp_path)).class_names == tuple(names)  # from the cache
