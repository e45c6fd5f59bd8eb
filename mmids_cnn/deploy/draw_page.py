"""A page to draw on: one HTML file with a network inside, run by the JavaScript beside this file.

The network goes in as data, a list of layers and their numbers, so that `network.js` knows operations but no
network. Importing this imports no JAX.
"""

import base64
import hashlib
import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files

if TYPE_CHECKING:
    from mmids_cnn.runs.trained import Trained

NAME = "draw.html"
LIMIT = 2_000_000  # bytes of a page, up to which it holds more than one checkpoint
EXAMPLES = 12  # of the test split that the network gets right, and as many errors
SCRIPTS = ("network.js", "strokes.js", "page.js")


class Layer(NamedTuple):
    """A layer of the page's network.

    Attributes:
      op: one of the operations of `network.js`.
      arrays: its numbers.
      shown: whether the page shows what comes out, as the end of a block.
    """

    op: str
    arrays: Mapping[str, np.ndarray] = {}
    shown: bool = False


def layers(name: str, module: Any, variables: Mapping[str, Any]) -> list[Layer]:
    """What a network does once it is trained, as layers.

    Args:
      name: of the network, a key of `NETWORKS`.
      module: the network, for its fields.
      variables: its variables, nested dicts.
    """
    dense = {key: np.asarray(array) for key, array in variables["params"]["Dense_0"].items()}
    return [*NETWORKS[name](module, variables), Layer("dense", dense)]


def _conv_net(module: Any, variables: Mapping[str, Any]) -> Iterator[Layer]:
    for index in range(len(module.channels)):
        block = variables["params"][f"ConvPool_{index}"]
        yield Layer("conv", {name: np.asarray(block[name]) for name in ("kernel", "bias")})
        yield Layer("pool")
        yield Layer("relu", shown=True)
    yield Layer("flatten")


def _norm_net(module: Any, variables: Mapping[str, Any]) -> Iterator[Layer]:
    from mmids_cnn.layers import norm  # it imports JAX

    pooled = [index == depth - 1 for depth in module.depths[:-1] for index in range(depth)]
    for index, pool in enumerate([*pooled, *[False] * module.depths[-1]]):
        block = variables["params"][f"ConvNorm_{index}"]
        running = variables["batch_stats"][f"ConvNorm_{index}"]
        factor = np.asarray(block["scale"] / np.sqrt(running["var"] + norm.EPSILON))
        yield Layer("conv", {"kernel": np.asarray(block["kernel"])})
        if pool:
            yield Layer("pool")  # before the factor, which may be negative
        yield Layer(
            "norm", {"factor": factor, "offset": np.asarray(block["bias"] - running["mean"] * factor)}
        )
        yield Layer("relu", shown=True)
    yield Layer("mean")


NETWORKS = {"conv_net": _conv_net, "norm_net": _norm_net}


def require_known(name: str) -> None:
    """Raises `ConfigError` unless the page can run networks of a name."""
    if name not in NETWORKS:
        raise ConfigError(
            f"--workdir: expected a run of one of {', '.join(NETWORKS)}, which the page can run, "
            f"found one of {name!r}; name another"
        )


def require_grey(image_shape: Sequence[int]) -> None:
    """Raises `ConfigError` unless what is drawn with one pen can be such an image."""
    if image_shape[2] != 1:
        raise ConfigError(
            f"--workdir: expected a network for images of one channel, to draw with one pen, found "
            f"{'x'.join(map(str, image_shape))}; name another run"
        )


def others(
    workdir: Path,
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    start: int,
    warn: Callable[[str], None],
) -> Iterator["Trained"]:
    """A run's network at all checkpoints but one, the newest first; `warn` is told of damaged ones."""
    from mmids_cnn.runs import trained  # it imports JAX

    for step in reversed(files.numbered(workdir / run_folder.CHECKPOINTS)):
        if step != start:
            try:
                yield trained.load(workdir, experiment, dataset, str(step), warn)
            except RunError as error:
                warn(f"skipped {error}")


def page(
    name: str,
    dataset: data.Dataset,
    start: "Trained",
    rest: Iterable["Trained"],
    logits: Float[np.ndarray, "n classes"],
    rows: Sequence[Mapping[str, Any]],
) -> tuple[str, int]:
    """The page.

    Args:
      name: of the network, a key of `NETWORKS`.
      dataset: what it was trained on.
      start: what the page begins with.
      rest: the run's other checkpoints; of these as many as keep the page below `LIMIT`.
      logits: of `start` on all of the test split.
      rows: of the run's metrics, which know the epoch of a step and its accuracy.

    Returns:
      The page, and the number of checkpoints in it.
    """
    drawn = layers(name, start.network.module, start.variables)
    height, width, _ = dataset.image_shape
    digits = dataset.class_names == tuple(map(str, range(10)))
    content: dict[str, Any] = {
        "title": "Draw a digit" if digits else f"Draw for {dataset.name}",
        "asked": "which digit" if digits else f"which of {dataset.num_classes} classes",
        "network": name,
        "parameters": sum(array.size for layer in drawn for array in layer.arrays.values()),
        "dataset": dataset.name,
        "height": height,
        "width": width,
        "classes": dataset.class_names,
        "layers": [
            {**layer._asdict(), "arrays": {key: array.shape for key, array in layer.arrays.items()}}
            for layer in drawn
        ],
        "accuracy": float((logits.argmax(1) == dataset.splits["test"].labels).mean()),
        "count": len(logits),
        "step": start.step,
        "checkpoints": [_checkpoint(name, start, rows)],
        "examples": _examples(dataset.splits["test"], logits),
    }
    room = (LIMIT - len(_filled(content))) // len(json.dumps(content["checkpoints"]))
    more = [_checkpoint(name, other, rows) for other in itertools.islice(rest, max(room, 0))]
    content["checkpoints"] = sorted([*content["checkpoints"], *more], key=lambda one: one["step"])
    return _filled(content), len(content["checkpoints"])


def _checkpoint(name: str, found: "Trained", rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = next((row for row in rows if row["step"] == found.step), {})
    arrays = [
        a for layer in layers(name, found.network.module, found.variables) for a in layer.arrays.values()
    ]
    floats = np.concatenate([array.ravel() for array in arrays]).astype("<f4")
    known = {"epoch": row.get("epoch"), "accuracy": row.get("test/accuracy")}
    return {"step": found.step, **known, "weights": base64.b64encode(floats.tobytes()).decode()}


def chosen(
    labels: Int[np.ndarray, " n"], logits: Float[np.ndarray, "n classes"]
) -> tuple[list[int], list[int]]:
    """Images to show: some that a network gets right, of as many classes as can be, and its worst errors.

    Args:
      labels: what they are.
      logits: what the network says.

    Returns:
      Indices of the first, ordered by class, and of the second, those with the most certain answer first.
    """
    said = logits.argmax(1)
    right = np.flatnonzero(said == labels)
    turn = np.zeros(len(right), int)  # how many of the same class come before
    for label in np.unique(labels[right]):
        of_class = labels[right] == label
        turn[of_class] = np.arange(of_class.sum())
    first = right[np.argsort(turn, kind="stable")[:EXAMPLES]]
    wrong = np.flatnonzero(said != labels)
    margin = logits[wrong].max(1) - logits[wrong, labels[wrong]]
    worst = wrong[np.argsort(-margin, kind="stable")[:EXAMPLES]]
    return first[np.argsort(labels[first], kind="stable")].tolist(), worst.tolist()


def _examples(split: data.Split, logits: Float[np.ndarray, "n classes"]) -> list[dict[str, Any]]:
    labels = np.asarray(split.labels)
    return [
        {
            "index": index,
            "label": int(labels[index]),
            "pixels": base64.b64encode(np.asarray(split.images[index]).tobytes()).decode(),
            "logits": [round(float(value), 6) for value in logits[index]],
        }
        for indices in chosen(labels, logits)
        for index in indices
    ]


def _filled(content: Mapping[str, Any]) -> str:
    """The page as HTML: it may use its own script and style, known by their hashes, and load nothing."""
    folder = Path(__file__).parent
    script = "".join((folder / name).read_text() for name in SCRIPTS)
    style = (folder / "page.css").read_text()
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    parts = {
        "policy": "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'".format(*hashes)
        + "; base-uri 'none'; form-action 'none'",
        "title": html.escape(str(content["title"])),
        "style": style,
        "data": json.dumps(content).replace("<", "\\u003c"),  # no name ends the element
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (folder / "page.html").read_text())
