"""IDX archives: read right, or refused in one line that names the file."""

import functools
import gzip
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmids_cnn.datasets import builder, idx
from mmids_cnn.errors import DataError
from tests.support import idx_files

DIGITS = idx_files.digits(20, 10)
IMAGES, LABELS = DIGITS["train", "images"], DIGITS["train", "labels"]
PLAIN = idx_files.encode(IMAGES)
PACKED = gzip.compress(PLAIN, mtime=0)  # the clock would make names of tests differ between workers
MNIST_FILES = sorted(path.name for path in idx.SHIPPED.glob("*.gz"))


def refused(path: Path) -> str:
    """The message with which reading a file is refused: one line that names it."""
    with pytest.raises(DataError) as caught:
        idx.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_shipped_archives_are_those_that_tfds_registers() -> None:
    import tensorflow_datasets as tfds

    table = Path(tfds.__file__).parent / "url_checksums" / "mnist.txt"
    registered = {row.split("\t")[-1]: row.split("\t")[-2] for row in table.read_text().splitlines()}
    sums = (row.split() for row in (idx.SHIPPED / "SHA256SUMS").read_text().splitlines())
    written = {name: checksum for checksum, name in sums}
    found = {name: hashlib.sha256((idx.SHIPPED / name).read_bytes()).hexdigest() for name in MNIST_FILES}
    assert found == written == registered


@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_archives_hold_mnist(split: str) -> None:
    images, labels = idx.read_split(idx.find("mnist", ""), split)
    size = {"train": 60_000, "test": 10_000}[split]
    assert images.shape == (size, 28, 28, 1)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    # Counts a class and the mean grey (33.32 and 33.79 of 255) are published for MNIST.
    counts = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    assert np.bincount(labels).tolist() == counts[split]
    assert images.mean() == pytest.approx({"train": 33.3184, "test": 33.7912}[split], abs=1e-3)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
@pytest.mark.parametrize(
    "array",
    [
        IMAGES,
        np.arange(-3, 3, dtype=np.int8),
        np.array([-(2**15), 258, 2**15 - 1], np.int16),  # 258 = 0x0102: bytes in the wrong order show
        np.array([[[-(2**31), 1]], [[16909060, 2**31 - 1]]], np.int32),
        np.zeros((0,), np.uint8),
        IMAGES[:2, :, :, None].repeat(3, -1),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}".replace(" ", ""),
)
def test_reads_what_was_written(tmp_path: Path, name: str, array: np.ndarray) -> None:
    read = idx.read(idx_files.write(tmp_path / name, array))
    np.testing.assert_array_equal(read, array, strict=True)
    assert read.dtype.isnative


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 15, 16, 17, 800, len(PLAIN) - 1])
def test_truncated_plain_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(PLAIN[:cut])
    refused(path)


@pytest.mark.parametrize("cut", [0, 1, 2, 9, 10, 11, 18, 40, len(PACKED) // 2, *range(-9, 0)])
def test_truncated_gzip_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(PACKED[:cut])
    refused(path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a", b"\x89PNG\r\n\x1a\n", "a file starting with b'\\x89PNG'"),
        ("a", b"\1" + PLAIN[1:], "a file starting with b'\\x01\\x00\\x08\\x03'"),
        ("a", b"\0\0\x0d" + PLAIN[3:], "a file starting with"),  # float32: no images, no labels
        ("a", b"\0\0\x08\0" + PLAIN[4:], "a file starting with"),  # no dimensions
        ("a", b"\0\0\x08\xff" + PLAIN[4:], "a file starting with"),
        ("a", PLAIN + b"\0", "more bytes of elements where shape (20, 28, 28) needs 15,680"),
        ("a", PLAIN[:-1], "only 15,679 bytes of elements where shape (20, 28, 28) needs 15,680"),
        ("a", PLAIN[:12], "a header that breaks off"),
        ("a", PACKED, "a file starting with b'\\x1f\\x8b"),
        ("a.gz", PLAIN, "a truncated or damaged gzip stream"),
        ("a.gz", PACKED + b"trailing", "a truncated or damaged gzip stream"),
        ("a.gz", PACKED + PACKED, "more bytes of elements"),
        ("a.gz", gzip.compress(PLAIN[:-1], mtime=0), "only 15,679 bytes"),
        ("a.gz", gzip.compress(b"<html>not found</html>", mtime=0), "a file starting with b'<htm'"),
        ("a.gz", b"", "a file starting with b''"),
    ],
)
def test_not_what_its_header_says(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: expected an IDX archive, found {found}")
    assert message.endswith("; replace the file")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("count", [2**32 - 1, 2_000_000, 100_000])
def test_huge_header_takes_no_memory(tmp_path: Path, suffix: str, count: int) -> None:
    path = tmp_path / f"images-idx3-ubyte{suffix}"
    content = PLAIN[:4] + count.to_bytes(4, "big") + PLAIN[8:] + bytes(2**20)
    path.write_bytes(gzip.compress(content, 0) if suffix else content)  # 1 MiB announces 78 MB to 3 TB
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_four_huge_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(b"\0\0\x0c\4" + b"\xff" * 16 + PLAIN)
    refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    packed=st.booleans(),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3),
    cut=st.none() | st.integers(0, 2**20),
)
def test_random_damage_is_noticed_or_harmless(
    tmp_path: Path, packed: bool, flips: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(PACKED if packed else PLAIN)
    for position, mask in flips:
        damaged[position % len(damaged)] ^= mask
    if cut is not None:
        del damaged[cut % len(damaged) :]
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(damaged)
    try:
        read = idx.read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:  # gzip has a checksum: only its unused header bytes may change; a plain file has none
        assert packed is False or np.array_equal(read, IMAGES)
        assert read.size == IMAGES.size


def test_a_flipped_bit_in_each_part_of_a_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    for position in (0, 2, 20, len(PACKED) // 2, len(PACKED) - 8, len(PACKED) - 1):
        damaged = bytearray(PACKED)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_finds_a_set_without_prefix_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    archives = idx.find("fashion_mnist", str(idx_files.write_set(tmp_path, DIGITS, suffix=suffix)))
    for split in idx.SPLITS:
        images, labels = idx.read_split(archives, split)
        np.testing.assert_array_equal(images[..., 0], DIGITS[split, "images"])
        np.testing.assert_array_equal(labels, DIGITS[split, "labels"])


@pytest.mark.parametrize("form", ["{split}-{kind}.idx{n}-ubyte", "{split}_{kind}_idx{n}-ubyte.gz"])
def test_finds_other_spellings(tmp_path: Path, form: str) -> None:
    for (split, kind), array in DIGITS.items():
        n = 3 if kind == "images" else 1
        idx_files.write(tmp_path / form.format(split=split, kind=kind, n=n), array)
    assert len(idx.find("own", str(tmp_path)).files) == 4


def test_digest_changes_with_every_archive(tmp_path: Path) -> None:
    digests = [idx.find("own", str(idx_files.write_set(tmp_path, DIGITS))).digest]
    for key, array in DIGITS.items():
        changed = array.copy()
        changed.flat[0] ^= 1
        folder = idx_files.write_set(tmp_path / "-".join(key), DIGITS | {key: changed})
        digests.append(idx.find("own", str(folder)).digest)
    assert len(set(digests)) == 5


def test_plain_file_wins_over_its_gzip(tmp_path: Path) -> None:
    idx_files.write_set(tmp_path, DIGITS, suffix=".gz")
    idx_files.write_set(tmp_path, DIGITS, suffix="")
    assert all(path.suffix != ".gz" for path in idx.find("own", str(tmp_path)).files.values())


@pytest.fixture
def emnist(tmp_path: Path) -> Path:
    """A folder as EMNIST comes: several sets, told apart by the files' names."""
    for number, name in enumerate(("emnist-letters", "emnist-digits", "emnist-mnist")):
        arrays = DIGITS | {("train", "labels"): np.full_like(LABELS, number + 1)}
        arrays["test", "labels"] = np.zeros_like(DIGITS["test", "labels"])
        idx_files.write_set(tmp_path, arrays, prefix=f"{name}-")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "label"),
    [("emnist-letters", 1), ("emnist/letters", 1), ("emnist_digits", 2), ("emnist/mnist", 3)],
)
def test_name_picks_among_sets(emnist: Path, name: str, label: int) -> None:
    archives = idx.find(name, str(emnist))
    assert set(idx.read_split(archives, "train")[1]) == {label}
    assert {path.name.split("-t")[0] for path in archives.files.values()} == {re.sub("[/_]", "-", name)}


@pytest.mark.parametrize("name", ["emnist", "letters", "emnist-balanced"])
def test_ambiguous_name_lists_the_sets(emnist: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        idx.find(name, str(emnist))
    assert str(caught.value) == (
        f"{emnist}: expected one set of archives, found emnist-digits, emnist-letters, emnist-mnist; "
        "set --config.dataset.name to one of them"
    )


def test_archives_of_two_sets_are_never_mixed(emnist: Path) -> None:
    for path in itertools.chain(emnist.glob("emnist-digits-t10k*"), emnist.glob("emnist-mnist-*")):
        path.unlink()  # digits lacks its test split; letters is whole
    with pytest.raises(DataError, match=r"emnist-digits.*t10k|t10k.*emnist-digits"):
        idx.find("emnist-digits", str(emnist))


@pytest.mark.parametrize("key", idx_files.FILES, ids="-".join)
def test_missing_archive(tmp_path: Path, key: tuple[str, str]) -> None:
    name = f"{idx_files.FILES[key]}.gz"
    (idx_files.write_set(tmp_path, DIGITS) / name).unlink()
    with pytest.raises(DataError) as caught:
        idx.find("own", str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: expected an archive such as {name}, found none")


@pytest.mark.parametrize("what", ["missing", "file"])
def test_missing_folder(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as caught:
        idx.find("own", str(tmp_path / what))
    assert str(caught.value).startswith("dataset.archives: expected a folder of IDX archives, found none at ")
    assert str(tmp_path / what) in str(caught.value)


def test_folders_named_like_archives_are_passed_over(tmp_path: Path) -> None:
    idx_files.write_set(tmp_path, DIGITS)
    for name in idx_files.FILES.values():
        idx_files.write(tmp_path / name / "inside", IMAGES)  # as Kaggle's archive unpacks
    assert all(path.is_file() for path in idx.find("own", str(tmp_path)).files.values())


def damaged_set(folder: Path, **changes: np.ndarray) -> idx.Archives:
    arrays = DIGITS | {key: changes["_".join(key)] for key in DIGITS if "_".join(key) in changes}
    return idx.find("own", str(idx_files.write_set(folder, arrays)))


@pytest.mark.parametrize(
    ("changes", "file", "reason"),
    [
        ({"train_labels": LABELS[:-1]}, "train-labels", "expected 20 labels, one for each image of train"),
        ({"train_labels": np.append(LABELS, LABELS[0])}, "train-labels", "found 21"),
        ({"train_labels": np.int8(LABELS) - np.int8(9)}, "train-labels", "labels >= 0, found -9 at position"),
        ({"train_labels": LABELS[:, None, None]}, "train-labels", r"elements of shape \(20, 1, 1\)"),
        ({"train_images": IMAGES.astype(np.int16)}, "train-images", "expected uint8 images, found int16"),
        ({"train_images": IMAGES[:, 0, 0]}, "train-images", r"uint8 images, found uint8 elements of shape"),
        ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "train-images", r"shape \(0, 28, 28\)"),
        ({"train_images": IMAGES[:, :0]}, "train-images", r"shape \(20, 0, 28\)"),
    ],
)  # fmt: skip
def test_two_archives_that_do_not_fit(tmp_path: Path, changes: dict, file: str, reason: str) -> None:
    archives = damaged_set(tmp_path, **changes)
    with pytest.raises(DataError, match=reason) as caught:
        idx.read_split(archives, "train")
    assert str(caught.value).startswith(f"{tmp_path}/{file}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"test_labels": np.full(10, 11, np.uint8)},
            "expected labels from 0 to 9, .* found 11 at position 0",
        ),
        ({"test_images": DIGITS["test", "images"][:, :14]}, r"shape \(28, 28, 1\), .* found \(14, 28, 1\)"),
        (
            {"test_images": DIGITS["test", "images"][..., None].repeat(3, -1)},
            r"shape \(28, 28, 1\), .* found \(28, 28, 3\)",
        ),
    ],
)
def test_two_splits_that_do_not_fit(tmp_path: Path, changes: dict, reason: str) -> None:
    archives = damaged_set(tmp_path / "archives", **changes)
    with pytest.raises(DataError, match=reason):
        builder.IdxArchives(name="own", archives=archives, data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        (lambda images: images[:, :14, :20], 10),
        (lambda images: np.stack([images] * 3, -1), 10),
        (lambda images: images[:, :1, :1], 2),
        (lambda images: images, 26),
        (lambda images: images, 1000),
    ],
)
def test_other_sizes_colours_and_classes(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], classes: int
) -> None:
    labels = np.where(np.arange(20) == 3, classes - 1, LABELS.astype(np.int16) % classes)
    archives = damaged_set(
        tmp_path / "archives",
        train_images=change(IMAGES),
        train_labels=labels,
        test_images=change(DIGITS["test", "images"]),
        test_labels=np.zeros(10, np.uint8),
    )
    info = builder.IdxArchives(name="own", archives=archives, data_dir=tmp_path / "data").info
    expected = change(IMAGES)
    expected = expected if expected.ndim == 4 else expected[..., None]
    np.testing.assert_array_equal(idx.read_split(archives, "train")[0], expected)
    assert info.features["image"].shape == expected.shape[1:]
    assert info.features["label"].num_classes == classes


@pytest.fixture(scope="module")
def plain_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    for name in MNIST_FILES:
        (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress((idx.SHIPPED / name).read_bytes()))
    return folder


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("SHA256SUMS", "LICENSE", "__pycache__"))
    return folder


def test_mnist_in_plain_form_is_accepted(plain_mnist: Path, tmp_path: Path) -> None:
    idx.find("mnist", str(plain_mnist))
    dotted = copied(plain_mnist, tmp_path / "dotted")
    for path in list(dotted.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))  # as some unpackers name them
    idx.find("mnist", str(dotted))


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("plain", [False, True], ids=["gzip", "plain"])
def test_mnist_with_one_bit_changed(tmp_path: Path, plain_mnist: Path, name: str, plain: bool) -> None:
    folder = copied(plain_mnist if plain else idx.SHIPPED, tmp_path / "archives")
    path = folder / (name.removesuffix(".gz") if plain else name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before, after = (hashlib.sha256(bytes_).hexdigest() for bytes_ in (original(name, plain), bytes(content)))
    with pytest.raises(DataError) as caught:
        idx.find("mnist", str(folder))
    assert str(caught.value).startswith(
        f"{path}: expected the archive of mnist 3.0.1 with SHA-256 {before}, "
    )
    assert f"found {after}; " in str(caught.value)
    idx.find("my_mnist", str(folder))  # another name: another set, which has no registered checksums


@functools.cache
def original(name: str, plain: bool) -> bytes:
    content = (idx.SHIPPED / name).read_bytes()
    return gzip.decompress(content) if plain else content


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_under_names_that_are_not_registered(tmp_path: Path, suffix: str) -> None:
    idx_files.write_set(tmp_path, DIGITS, prefix="own-", suffix=suffix)
    with pytest.raises(
        DataError, match=r"own-train-images-idx3-ubyte.*: expected the archive of mnist 3\.0\.1"
    ):
        idx.find("mnist", str(tmp_path))


def test_reading_imports_neither_jax_nor_tfds() -> None:
    code = (
        "import sys\nfrom mmids_cnn.datasets import idx\nidx.read_split(idx.find('mnist', ''), 'test')\n"
        "print([name for name in ('jax', 'tensorflow', 'tensorflow_datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("label", [2**16, 2**31 - 1])
def test_label_that_would_ask_for_all_memory(tmp_path: Path, label: int) -> None:
    labels = DIGITS["train", "labels"].astype(np.int32)
    labels[3] = label
    archives = damaged_set(tmp_path, train_labels=labels)
    with pytest.raises(DataError, match=rf"expected labels below 65,536, found {label} at position 3"):
        idx.read_split(archives, "train")
