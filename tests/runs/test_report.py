"""The page of a run: the numbers on it, what it is like for unusual data, when it is written and when not."""

import base64
import dataclasses
import html.parser
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data, model
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import inside, report, trained
from mmids_cnn.storage import files
from tests.support import random_variables
from tests.support.idx_files import digits, write_set
from tests.support.processes import EPOCHS, PER_EPOCH, Place, content, fresh, rewritten

CHROMIUM = shutil.which("chromium")
EXPERIMENT = config_lib.resolve(base.get_config())


class Page(html.parser.HTMLParser):
    """Pictures of a page with their alternative texts, its tables as rows of cells, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.pictures: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.text, self._in_cell = "", False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        given = {name: value or "" for name, value in attrs}
        assert given.get("href", "#").startswith("#")
        if tag == "img":
            assert given["src"].startswith("data:image/") and given["alt"]
            self.pictures.append((given["alt"], given["src"]))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("td", "th", "tr", "table"):
            self._in_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data.strip("\n")

    def table(self, first: str) -> list[list[str]]:
        """The table whose first head is so called."""
        (found,) = [table for table in self.tables if table[0][0] == first]
        return found


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Makes pages of networks that answer what is asked for."""

    workdir: Path

    def page(self, images: np.ndarray, labels: Any, logits: np.ndarray, **more: Any) -> Page:
        """The page of a network whose logits for test image i are row i of `logits`: its parameters.

        The first pixels of an image are its number, in base 256.
        """
        numbers = np.arange(len(images))
        images = images.copy()
        images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers % 256, numbers // 256
        split = data.Split(images, np.asarray(labels, np.int32))
        splits = {"train": split, "test": split, **more.pop("splits", {})}
        known = {"name": "digits", "num_classes": logits.shape[1], "fingerprint": "f", **more}
        dataset = data.Dataset(splits=splits, **known)
        network = model.Network(Lookup(logits.shape), logits.shape[1])
        variables = {"params": {"table": jnp.asarray(logits, jnp.float32)}}
        found = trained.Trained(network, variables, 3)
        return Page(report.page(self.workdir, EXPERIMENT, dataset, found))


class Lookup(nn.Module):
    """Its answers are its parameters."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: Any = None) -> jax.Array:
        table = self.param("table", nn.initializers.zeros, self.shape)
        return table[images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 1, 0].astype(int)]


@pytest.fixture
def fixed(tmp_path: Path) -> Fixed:
    return Fixed(tmp_path)


def black(count: int, *shape: int) -> np.ndarray:
    return np.zeros((count, *shape), np.uint8)


def test_numbers_by_hand(fixed: Fixed) -> None:
    """Three classes of 20x24 pixels; the third is not in the split, and taken for once."""
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.0, 0.9]])
    logits = np.log(np.maximum(probabilities, 1e-30))
    page = fixed.page(black(4, 20, 24, 1), [0, 0, 1, 1], logits, declared=("ant", "bee", "<cow>"))
    assert "test accuracy: 2 of 4 images; 95 % interval (Wilson) 15.00 to 85.00 %" in page.text
    assert page.table("true ↓, said →") == [
        ["true ↓, said →", "0", "1", "2", "recall"],
        ["0, ant", "1", "1", "", "50.0 %"],
        ["1, bee", "", "1", "1", "50.0 %"],
        ["2, <cow>", "", "", "0", "–"],
        ["precision", "100.0 %", "50.0 %", "0.0 %", ""],
    ]
    assert page.table("class")[1:] == [
        ["0, ant", "1, bee (1)", "2", "50.0 %", "100.0 %", "66.7 %"],
        ["1, bee", "2, <cow> (1)", "2", "50.0 %", "50.0 %", "50.0 %"],
        ["2, <cow>", "–", "0", "–", "0.0 %", "0.0 %"],
    ]
    gallery = [alt for alt, _ in page.pictures if alt.startswith("test image")]
    assert gallery == [
        "test image 3, bee, taken for <cow>",
        "test image 1, ant, taken for bee",
    ]  # surest first
    assert "bee → <cow>, 0.900" in page.text
    assert "no validation images" in page.text and "no convolution" in page.text
    gaps = abs(1 - 0.8) + abs(0 - 0.6) + abs(1 - 0.7) + abs(0 - 0.9)  # each in a bin of its own
    brier = np.sum((probabilities - np.eye(3)[[0, 0, 1, 1]]) ** 2) / 4
    row = page.table("logits")[1]
    assert row[0] == "as trained" and row[3] == f"{100 * gaps / 4:.2f} %"
    assert float(row[2]) == pytest.approx(brier, abs=1e-4)


def test_pixels_of_an_error_are_those_of_the_split(fixed: Fixed) -> None:
    images = np.random.default_rng(0).integers(256, size=(2, 20, 24, 3), dtype=np.uint8)
    page = fixed.page(images, [1, 1], np.array([[1.0, 0.0], [0.0, 1.0]]))
    (source,) = [source for alt, source in page.pictures if "taken for" in alt]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    assert np.array_equal(pixels[1:], images[0, 1:])


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong(fixed: Fixed, right: bool) -> None:
    labels = np.arange(300) % 7
    page = fixed.page(black(300, 20, 24, 1), labels, 60 * np.eye(7)[(labels + (not right)) % 7])
    if right:
        assert "None: all 300 test images are right." in page.text
        assert "Wilson) 98.74 to 100.00 %" in page.text
    else:
        assert "Shown are the 200" in page.text
        assert sum("taken for" in alt for alt, _ in page.pictures) == 200


def test_hundred_classes_of_coloured_images(fixed: Fixed) -> None:
    random, labels = np.random.default_rng(0), np.arange(400) % 100
    logits = 3 * np.eye(100)[labels] + random.standard_normal((400, 100))
    logits[labels == 7] = np.eye(100)[9]
    images = random.integers(256, size=(400, 32, 32, 3), dtype=np.uint8)
    held_out = {"validation": data.Split(images[:50], labels[:50].astype(np.int32))}
    page = fixed.page(images, labels, logits, splits=held_out)
    assert page.table("true")[1] == ["7", "9", "4", "4"]
    assert not any(table[0][0].startswith("true ↓") for table in page.tables)
    assert len(page.table("class")) == 101
    assert page.table("logits")[2][0].startswith("divided by ")
    assert "fitted to the log loss on 50 validation images" in page.text


def test_large_images_are_thinned(fixed: Fixed) -> None:
    page = fixed.page(black(3, 200, 130, 3), [0, 1, 1], np.eye(2)[[1, 1, 1]])
    (source,) = [source for alt, source in page.pictures if "taken for" in alt]
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (33, 50)
    assert "each 4th is shown" in page.text


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fields", "channels", "maps"),
    [
        ({"name": "conv_net", "kernel_size": 3}, 1, 2),
        ({"name": "norm_net", "depths": (1, 2), "flatten": False, "dropout": 0.0}, 3, 3),
    ],
)
def test_filters_and_maps(tmp_path: Path, fields: dict[str, Any], channels: int, maps: int) -> None:
    tree = base.get_config().to_dict() | {"model": {"channels": (2, 70), **fields}}
    experiment = config_lib.resolve(tree)
    split = data.Split(black(5, 20, 24, channels), np.zeros(5, np.int32))
    dataset = data.Dataset("digits", {"train": split, "test": split}, 7, "f")
    network = model.make(experiment, dataset.image_shape, 7)
    variables = random_variables.of(network.module, dataset.image_shape)
    page = Page(report.page(tmp_path, experiment, dataset, trained.Trained(network, variables, 1)))
    alts = [alt for alt, _ in page.pictures]
    assert "2 filters" in alts and sum(alt.startswith("maps of ") for alt in alts) == maps
    assert "all 2" in page.text and "the first 64 of 70" in page.text
    assert ("three channels" in page.text) == (channels == 3)
    assert "not recorded" in page.text and "has not been scored yet" in page.text


class Nested(nn.Module):
    """Flax's own layers, batch first, one inside another."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: Any = None) -> jax.Array:
        x = nn.Conv(5, (3, 3))(images / 255)
        x = nn.relu(nn.Conv(2, (1, 1), strides=2)(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


def test_maps_of_layers_with_the_batch_first() -> None:
    network = model.Network(Nested(), 3)
    variables = random_variables.of(network.module, (8, 6, 3))
    image = np.random.default_rng(0).integers(256, size=(8, 6, 3), dtype=np.uint8)
    kernel, layers = inside.look(trained.Trained(network, variables, 1), image)
    assert kernel is not None and np.array_equal(kernel, variables["params"]["Conv_0"]["kernel"])
    assert [(name, maps.shape) for name, maps in layers] == [("Conv_0", (5, 8, 6)), ("Conv_1", (2, 4, 3))]
    expected = nn.Conv(5, (3, 3)).apply({"params": variables["params"]["Conv_0"]}, image / 255)
    np.testing.assert_allclose(layers[0][1], np.moveaxis(np.asarray(expected), -1, 0), atol=1e-5)


@pytest.fixture(scope="module")
def written(unbroken: Path, warm: Any, shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its page."""
    place = Place(shared_root, tmp_path_factory.mktemp("written"), warm)
    done = place.run(fresh(unbroken, place.work / "run").name, module="report")
    assert (done.returncode, done.stdout, done.stderr) == (0, "report: run/report.html\n", "")
    return place.work / "run"


def test_page_of_a_finished_run(written: Path) -> None:
    raw, result = (written / "report.html").read_text(), files.read_sealed(written / "result.json")
    page, provenance = Page(raw), files.read_sealed(written / "provenance.json")
    assert len(raw) < 2_000_000
    assert f"Finished after epoch {EPOCHS} of {EPOCHS} (step {EPOCHS * PER_EPOCH}), by the last" in page.text
    assert f"{100 * result['test/accuracy']:.2f} %" in page.text
    assert float(page.table("logits")[1][1]) == pytest.approx(result["test/loss"], rel=1e-3)
    for text in (result["fingerprint"], provenance["dataset"]["fingerprint"], "--config.num_epochs=4"):
        assert text in page.text
    shown = json.loads(page.text[page.text.index('{\n  "seed"') :].strip())
    assert shown == json.loads(json.dumps(files.read_sealed(written / "config.json")))
    row = run_folder.metrics(written)[0]
    assert any(
        f"test from {row['test/loss']:.4f} to " in alt for alt, _ in page.pictures
    )  # the untrained row
    for _, source in page.pictures:
        if "svg" in source.partition(",")[0]:
            drawn = base64.b64decode(source.partition(",")[2])
            assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
            outside = re.findall(rb'(?:href|src)="(?!#)([^"]*)"', drawn)
            assert all(one.startswith(b"data:") for one in outside)


def test_run_writes_its_page_and_names_it(place: Place) -> None:
    """With averaged weights; a second time the command gives the same bytes."""
    short = ("--config.num_epochs=1", "--config.train.average_decay=0.9", "--config.report=True")
    done = place.run("run", *short)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2] == "report: run/report.html"
    page = (place.work / "run" / "report.html").read_bytes()
    assert b"by a moving average of the weights" in page
    assert place.run("run", module="report").returncode == 0
    assert (place.work / "run" / "report.html").read_bytes() == page
    longer = place.run("run", *short, "--config.num_epochs=2", "--config.report=False")
    assert longer.returncode == 0 and "report: " not in longer.stdout
    assert not (place.work / "run" / "report.html").exists()  # that of the shorter run


def test_page_that_cannot_be_written_fails_no_run(place: Place) -> None:
    (place.work / "run" / "report.html" / "in the way").mkdir(parents=True)
    done = place.run("run", "--config.num_epochs=1", "--config.report=True")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: the run is finished, but its report.html was not written: FaultError: " in done.stdout
    assert (place.work / "run" / "result.json").exists()


def test_damaged_file_is_told_of(place: Place, unbroken: Path) -> None:
    workdir = fresh(unbroken, place.work / "run")
    (workdir / "result.json").write_bytes((workdir / "result.json").read_bytes()[:100])
    done = place.run("run", module="report")
    assert done.stderr.startswith("note: run/result.json is damaged and the page does without it; ")
    assert done.returncode == 0


def test_unfinished_run_whose_last_checkpoint_is_damaged(place: Place, unbroken: Path) -> None:
    workdir = fresh(unbroken, place.work / "run")
    (workdir / "result.json").unlink()
    (workdir / "metrics.jsonl").write_text("")  # the rows are those of the checkpoint
    step = EPOCHS * PER_EPOCH
    (workdir / "checkpoints" / str(step) / "state" / "manifest.ocdbt").unlink()
    done = place.run("run", module="report")
    assert done.returncode == 0 and f"note: skipped run/checkpoints/{step}: " in done.stderr
    page = Page((workdir / "report.html").read_text())
    assert f"after epoch {EPOCHS - 1} of {EPOCHS} (step {step - PER_EPOCH})" in page.text
    assert "Not finished" in page.text and "Note: skipped run/checkpoints/" in page.text
    assert any(alt.startswith("loss by epoch: train from") for alt, _ in page.pictures)


def test_name_of_a_set_is_no_html(place: Place) -> None:
    name = "--config.dataset.name=<b onload=x>&amp;"
    data = str(place.work / "data")  # others count what is in the data folder that they share
    done = place.run("run", "--config.num_epochs=1", "--config.report=True", name, TFDS_DATA_DIR=data)
    assert done.returncode == 0
    raw = (place.work / "run" / "report.html").read_text()
    assert "<b onload" not in raw and "Run run: <b onload=x>&amp;" in Page(raw).text


NO_MATPLOTLIB = (
    "import sys, runpy; sys.modules['matplotlib'] = None; "
    "runpy.run_module('mmids_cnn.{module}', run_name='__main__', alter_sys=True)"
)


def test_without_matplotlib(place: Place, unbroken: Path) -> None:
    fresh(unbroken, place.work / "run")
    words, code = place.command("run", module="report")[3:], NO_MATPLOTLIB.format(module="report")
    done = place.forking(place.work, *words, code=code, environment=place.environment())
    assert (done.returncode, done.stderr) == (
        2,
        "error: report: expected the package matplotlib, found none; pip install 'mmids_cnn[report]'\n",
    )
    words = place.command("new", "--config.num_epochs=1", "--config.report=True")[3:]
    code = NO_MATPLOTLIB.format(module="main")
    done = place.forking(place.work, *words, code=code, environment=place.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert not (place.work / "new" / "report.html").exists() and "report: " not in done.stdout


@pytest.mark.parametrize("kind", ["nothing", "sweep", "no checkpoint", "damaged", "other data"])
def test_mistakes(place: Place, unbroken: Path, kind: str) -> None:
    workdir = place.work / "run"
    if kind == "sweep":
        workdir.mkdir()
        (workdir / "sweep.json").write_text("{}")
    elif kind != "nothing":
        fresh(unbroken, workdir)
    if kind == "no checkpoint":
        shutil.rmtree(workdir / "checkpoints")
    if kind == "damaged":
        for path in workdir.glob("checkpoints/*/state/manifest.ocdbt"):
            path.unlink()
    if kind == "other data":
        labels = digits(400, 200)["test", "labels"][::-1]
        write_set(place.work / "others", digits(400, 200) | {("test", "labels"): labels})
        with rewritten(workdir) as (config, _):
            config["dataset"]["archives"] = str(place.work / "others")
    before = content(workdir)
    own = {"TFDS_DATA_DIR": str(place.work / "data")} if kind == "other data" else {}
    done = place.run("run", module="report", **own)
    message = {
        "nothing": "--workdir: expected a run folder with a config.json, found none in run; ",
        "sweep": "run/sweep.json: expected a whole file, found it damaged or missing; give the sweep's ",
        "no checkpoint": "run: expected checkpoints, found none; train it first",
        "damaged": "run/checkpoints: expected a whole checkpoint, found ",
        "other data": "run: expected the data it was trained on ",
    }[kind]
    assert (done.returncode, "report: " in done.stdout) == (2, False)
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert content(workdir) == before


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "light"), (1200, "dark")])
def test_in_a_browser(written: Path, tmp_path: Path, width: int, scheme: Any) -> None:
    """Nothing is asked for but the file, nothing is complained of, nothing is wider than the window."""
    from playwright.sync_api import sync_playwright

    address, asked, said = (written / "report.html").as_uri(), list[str](), list[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        window.on("request", lambda one: None if one.url.startswith("data:") else asked.append(one.url))
        window.on("console", lambda message: said.append(message.text))
        window.on("pageerror", lambda error: said.append(str(error)))
        window.goto(address)
        assert window.evaluate("document.documentElement.scrollWidth") == width
        assert window.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
        colour = window.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 28)"}[scheme]
        window.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert (asked, said) == ([address], [])
    assert (tmp_path / "page.png").stat().st_size > 100_000
