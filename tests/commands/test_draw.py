"""`draw`: its JavaScript against JAX, strokes that nobody here drew, what the page may load, a browser."""

import base64
import contextlib
import dataclasses
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data, score
from mmids_cnn.deploy import draw_page, reader
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import trained
from mmids_cnn.storage import files
from tests.support import forking, hershey, idx_files, javascript, lines
from tests.support.suite import ROOT, CommandLine

OVERRIDES = {
    "conv_net": (
        *("--config.model.channels=8,16", "--config.train.average_decay=0.98", "--config.checkpoint.keep=2"),
        *("--config.num_epochs=4", "--config.optimizer.learning_rate=0.005"),
    ),
    "norm_net": (
        "--config.model.channels=4,6",
        "--config.model.depths=1,1",
        "--config.num_epochs=1",
        "--config.optimizer.learning_rate=0.01",
    ),
}
CHROMIUM = "/usr/bin/chromium"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>')
SCRIPT = re.compile(r"<script>(.*?)</script>", re.S)


class Page(NamedTuple):
    """A page that the command wrote, the script in it run by V8 with what `DATA` holds as `data`."""

    workdir: Path
    shown: str
    text: str
    data: dict[str, Any]
    run: javascript.Evaluate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, cache_home: Path, warm: forking.Forking) -> Path:
    """Two runs, a network each, and their pages."""
    root = tmp_path_factory.mktemp("draw")
    idx_files.write_set(root / "archives", idx_files.digits(6000, 500))
    environment = {
        **os.environ,
        "TFDS_DATA_DIR": str(root / "data"),
        "XDG_CACHE_HOME": str(cache_home),
    }
    file = f"--config={ROOT}/experiments/base.py"
    digits = ("--config.dataset.name=digits", "--config.dataset.archives=archives", "--config.batch_size=50")
    for name, overrides in OVERRIDES.items():
        for module, words in (
            ("main", (file, *digits, f"--config.model.name={name}", *overrides)),
            ("draw", ()),
        ):
            line = [sys.executable, "-m", f"mmids_cnn.{module}", f"--workdir={name}", *words]
            done = warm.run(line, root, environment)
            assert (done.returncode, done.stderr) == (0, "")
            (root / f"{name}.{module}").write_text(done.stdout)
    return root


@pytest.fixture(scope="module")
def pages(root: Path) -> Iterator[dict[str, Page]]:
    with contextlib.ExitStack() as opened:
        found = {}
        for name in OVERRIDES:
            text, shown = (root / name / "draw.html").read_text(), (root / f"{name}.draw").read_text()
            content, engine = inside(text)
            found[name] = Page(root / name, shown, text, content, opened.enter_context(engine))
        yield found


@pytest.fixture(params=OVERRIDES)
def page(request: pytest.FixtureRequest, pages: dict[str, Page]) -> Page:
    return pages[request.param]


@pytest.fixture
def conv_page(pages: dict[str, Page]) -> Page:
    return pages["conv_net"]


def inside(text: str) -> tuple[dict[str, Any], contextlib.AbstractContextManager[javascript.Evaluate]]:
    """The data of a page, and what runs its script."""
    (content,), (script,) = DATA.findall(text), SCRIPT.findall(text)
    return json.loads(content), javascript.engine(f"{script}\nconst data = {content};")


def logits_of(run: javascript.Evaluate, images: np.ndarray, checkpoint: int = 0) -> Any:
    """What the JavaScript answers."""
    layers = f"withWeights(data.layers, floatsOf(data.checkpoints.at({checkpoint}).weights))"
    pixels = json.dumps(images.reshape(len(images), -1).tolist())
    return run(f"(layers => {pixels}.map(image => logits(layers, image, 28, 28)))({layers})")


def loaded(page: Page, monkeypatch: pytest.MonkeyPatch, which: str) -> tuple[trained.Trained, data.Dataset]:
    monkeypatch.setenv("TFDS_DATA_DIR", str(page.workdir.parent / "data"))
    experiment = run_folder.experiment(page.workdir)
    dataset = data.load(experiment.dataset)
    found = trained.load(page.workdir, experiment, dataset, which, pytest.fail)
    return found._replace(variables=jax.tree.map(jnp.asarray, found.variables)), dataset


def test_what_is_said(page: Page) -> None:
    count = {"conv_net": 2, "norm_net": 1}[page.workdir.name]
    path, checkpoints = page.workdir / "draw.html", "checkpoint" if count == 1 else "checkpoints"
    assert re.fullmatch(
        rf"wrote {page.workdir.name}/draw\.html, \d+ kB, {count} {checkpoints} of {page.workdir.name}\n"
        rf"open it in a browser: {re.escape(path.as_uri())}\n",
        page.shown,
    )


def test_logits_are_those_of_jax(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each checkpoint: what is scored, averaged weights and running statistics."""
    steps = files.numbered(page.workdir / "checkpoints")
    assert [one["step"] for one in page.data["checkpoints"]] == steps
    for index, step in enumerate(steps):
        found, dataset = loaded(page, monkeypatch, str(step))
        images = np.asarray(dataset.splits["test"].images[:200])
        expected = score.logits(found.network, found.variables, images)
        np.testing.assert_allclose(logits_of(page.run, images, index), expected, atol=1e-4)
        assert np.ptp(expected, 0).min() > 0.1  # they are not alike for all images


def test_factors_may_be_negative(pages: dict[str, Page], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the largest value of a window is not the one that it would be after batch norm."""
    found, dataset = loaded(pages["norm_net"], monkeypatch, "newest")
    params = dict(found.variables["params"])
    for name in ("ConvNorm_0", "ConvNorm_1"):
        params[name] = {**params[name], "scale": -params[name]["scale"]}
    found = found._replace(variables={**found.variables, "params": params})
    images = np.asarray(dataset.splits["test"].images[:20])
    expected = score.logits(found.network, found.variables, images)
    text, _ = draw_page.page("norm_net", dataset, found, [], np.zeros((500, 10)), [])
    with inside(text)[1] as run:
        np.testing.assert_allclose(logits_of(run, images), expected, atol=1e-4)
    assert np.ptp(expected, 0).min() > 0.1


def test_odd_sizes_and_wide_kernels(conv_page: Page) -> None:
    """As other data and `kernel_size` have them."""
    random = np.random.default_rng(0)
    image, kernel = random.integers(0, 256, (11, 7)), random.normal(size=(5, 3, 1, 2))
    layers = [
        {"op": "conv", "arrays": {"kernel": kernel.shape}, "weights": {"kernel": kernel.ravel().tolist()}}
    ]
    layers.append({"op": "pool", "arrays": {}, "weights": {}})
    got = conv_page.run(f"logits({json.dumps(layers)}, {image.ravel().tolist()}, 11, 7)")
    framed = np.pad(image / 255, ((2, 2), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (5, 3))
    whole = np.einsum("yxij,ijk->yxk", windows, kernel[:, :, 0])[:10, :6]
    np.testing.assert_allclose(got, whole.reshape(5, 2, 3, 2, 2).max((1, 3)).ravel(), rtol=1e-5, atol=1e-6)


def drawn(page: Page, strokes: hershey.Strokes, height: int = 28, width: int = 28) -> np.ndarray:
    pixels = page.run(f"Array.from(imageOf({json.dumps(strokes)}, {height}, {width}))")
    return np.array(pixels).reshape(height, width)


def centre(image: np.ndarray) -> list[float]:
    return [float(image.sum(1 - axis) @ np.arange(image.shape[axis]) / image.sum()) for axis in (0, 1)]


@pytest.mark.parametrize("label", range(10))
def test_strokes_are_normalised_as_mnist_is(conv_page: Page, label: int) -> None:
    digit = [(stroke / 40 + 0.3).tolist() for stroke in hershey.digit(label)]
    image = drawn(conv_page, digit)
    assert centre(image) == pytest.approx([14, 14], abs=0.05)
    rows, columns = np.flatnonzero((image > 127).any(1)), np.flatnonzero((image > 127).any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
    assert image.max() == 255
    elsewhere = [(np.array(stroke) / 5 + [0.1, 0.7]).tolist() for stroke in digit]
    assert abs(image - drawn(conv_page, elsewhere)).max() <= 1


def test_a_line_is_as_wide_as_the_pen_and_stays_inside(conv_page: Page) -> None:
    line = drawn(conv_page, [[[0.5, 0.2], [0.5, 0.9]]])
    middle = line[8:20].sum(1) / 255
    np.testing.assert_allclose(middle, 2.5, atol=0.15)
    assert line[8:20].std(0).max() < 1
    wide = drawn(conv_page, [[[0, 0], [1, 0], [1, 1]], [[0, 0.02], [1, 0.02]], [[0, 0.04], [1, 0.04]]])
    assert max(wide[[0, -1]].max(), wide[:, [0, -1]].max()) <= 128  # its mass is far from its middle
    assert drawn(conv_page, [[[0.3, 0.3]]]).sum() / 255 == pytest.approx(np.pi * 1.25**2, abs=0.5)
    assert conv_page.run("imageOf([], 28, 28)") is None
    twice = drawn(conv_page, [[[0.5, 0.2], [0.5, 0.9]]], 56, 84)
    np.testing.assert_allclose(twice[20:36].sum(1) / 255, 5, atol=0.2)
    assert centre(twice) == pytest.approx([28, 42], abs=0.1)


def test_digits_that_nobody_here_drew(conv_page: Page) -> None:
    """By the weights of `experiments/strong.py`, seed 0, as `export` writes them: those of the record."""
    tensors, about = reader.read(str(Path(__file__).with_name("strong.safetensors")))
    recorded = json.loads((ROOT / "tests" / "benchmarks" / "records" / "recipes.json").read_text())
    assert float(about["accuracy"]) == recorded["recipes"]["strong"]["runs"][0]["test/accuracy"]
    random = np.random.default_rng(0)
    labels = np.arange(400) % 10
    strokes = json.dumps([hershey.drawn(int(label), random) for label in labels])
    images = np.array(conv_page.run(f"{strokes}.map(one => Array.from(imageOf(one, 28, 28)))"))
    said = reader.probabilities(tensors, about, images.reshape(-1, 28, 28, 1)).argmax(1)
    assert (said == labels).mean() >= 0.97


def test_examples(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    found, dataset = loaded(page, monkeypatch, "newest")
    test = dataset.splits["test"]
    logits = score.logits(found.network, found.variables, test.images)
    wrong = int((logits.argmax(1) != test.labels).sum())
    examples = page.data["examples"]
    assert len(examples) == 12 + min(12, wrong)
    assert page.data["accuracy"] == pytest.approx(1 - wrong / 500)
    for position, one in enumerate(examples):
        assert one["label"] == test.labels[one["index"]]
        assert base64.b64decode(one["pixels"]) == np.asarray(test.images[one["index"]]).tobytes()
        assert (logits[one["index"]].argmax() == one["label"]) == (position < 12)
    if page.workdir.name == "conv_net":
        assert {one["label"] for one in examples[:12]} == set(range(10))


def test_the_page_may_load_nothing(page: Page) -> None:
    assert len(page.text) < 400_000
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page.text)
    (style,), (script,) = re.findall(r"<style>(.*?)</style>", page.text, re.S), SCRIPT.findall(page.text)
    sources = {
        f"{kind}-src": f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in (("script", script), ("style", style))
    }
    expected = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **sources}
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == expected
    assert not re.search(r"https?:|<link|<img|@import|url\(", page.text.replace(policy, ""))


def test_names_stay_text_and_the_newest_checkpoints_fit(
    conv_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, dataset = loaded(conv_page, monkeypatch, "newest")
    name = "</script><script>alert('&')</script>"
    dataset = dataclasses.replace(dataset, name=name, declared=(name, *"bcdefghij"))
    logits = score.logits(found.network, found.variables, dataset.splits["test"].images)
    others = [found._replace(step=step) for step in (400, 300, 200, 100)]  # the newest first
    text, count = draw_page.page("conv_net", dataset, found, others, logits, [])
    assert count == 5
    content = json.loads(DATA.findall(text)[0])
    assert content["classes"][0] == name and "alert" not in SCRIPT.findall(text)[0]
    assert f"<h1>Draw for {html.escape(name)}</h1>" in text and text.count("<script>") == 1
    room = len(text) - 2 * len(content["checkpoints"][0]["weights"])
    monkeypatch.setattr(draw_page, "LIMIT", room)
    text, count = draw_page.page("conv_net", dataset, found, iter(others), logits, [])
    steps = [one["step"] for one in json.loads(DATA.findall(text)[0])["checkpoints"]]
    assert steps == [300, 400, found.step] and count == 3 and len(text) <= room


@pytest.mark.parametrize("which", [0, 1])
def test_damaged_checkpoint_is_named_once(
    root: Path, command_line: CommandLine, tmp_path: Path, which: int
) -> None:
    shutil.copytree(root / "conv_net", tmp_path / "run")
    step = files.numbered(tmp_path / "run" / "checkpoints")[which]
    (tmp_path / "run" / "checkpoints" / str(step) / "meta" / "metadata").write_text("{}")
    done = command_line("draw", "--workdir=run", TFDS_DATA_DIR=str(root / "data"))
    assert done.returncode == 0 and ", 1 checkpoint of run\n" in done.stdout
    assert done.stderr.startswith(f"note: skipped run/checkpoints/{step}: expected ")
    assert done.stderr.count("\n") == 1


def make_run(folder: Path, name: str = "conv_net", dataset: dict[str, str] | None = None) -> None:
    """As much of a run as is looked at before JAX is imported."""
    config = base.get_config()
    config.dataset.update(dataset or {})
    tree = config.to_dict()
    tree["model"] = {"name": name} if ":" in name else tree["model"]
    (folder / "checkpoints" / "1").mkdir(parents=True)
    files.write_sealed(folder / "config.json", config_lib.to_dict(config_lib.resolve(tree)))


def test_what_cannot_be_drawn_on(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "no_jax").mkdir()
    no_jax = lines.without_jax(tmp_path / "no_jax")
    make_run(tmp_path / "own", "experiments.own_network:ResNet")
    digits = idx_files.digits(50, 20)
    coloured = {key: np.stack([x] * 3, -1) if key[1] == "images" else x for key, x in digits.items()}
    idx_files.write_set(tmp_path / "archives", coloured)
    settings = {
        "name": "coloured",
        "archives": str(tmp_path / "archives"),
        "data_dir": str(tmp_path / "data"),
    }
    make_run(tmp_path / "coloured", dataset=settings)
    for workdir, message in (
        (
            "own",
            "expected a run of one of conv_net, norm_net, .* found one of 'experiments.own_network:ResNet'",
        ),
        ("coloured", "expected a network for images of one channel, .* found 28x28x3"),
        ("missing", "expected a run folder with a config.json, found none in missing"),
    ):
        done = command_line("draw", f"--workdir={workdir}", PYTHONPATH=no_jax)
        assert re.fullmatch(rf"error: --workdir: {message}.*; name .*\n", done.stderr), done.stderr
        assert done.returncode == 2


def test_page_that_cannot_be_written(root: Path, command_line: CommandLine, tmp_path: Path) -> None:
    shutil.copytree(root / "norm_net", tmp_path / "run")
    (tmp_path / "run" / "draw.html").unlink()
    (tmp_path / "run" / "draw.html").mkdir()
    done = command_line("draw", "--workdir=run", TFDS_DATA_DIR=str(root / "data"))
    assert re.fullmatch(
        r"error: writing run/draw\.html: Is a directory .*; a folder has that name: .*\n", done.stderr
    )
    assert done.returncode == 1 and not list((tmp_path / "run").glob(".draw*"))


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium")
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_in_a_browser(conv_page: Page, kind: str) -> None:
    """Drawn on by real events, on a desk and on a phone; run apart, as its event loop outlives it."""
    pytest.importorskip("playwright", reason="pip install playwright")
    path = str(conv_page.workdir / "draw.html")
    line = [sys.executable, "-m", "tests.support.browsing", CHROMIUM, path, kind]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
