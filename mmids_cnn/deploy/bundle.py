"""What an export holds: each file's content, made and measured before any is written."""

import importlib.metadata
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import mmids_cnn
from mmids_cnn import data, metrics
from mmids_cnn.deploy import graph, onnx_graph, weights
from mmids_cnn.errors import RunError
from mmids_cnn.runs import ensemble
from mmids_cnn.runs.trained import Member

ONNX, SAFETENSORS = "model.onnx", "model.safetensors"
TOLERANCE = 1e-4
"""By how much a logit may be off; more, where the largest is over 100: a millionth of that."""


class Scored(NamedTuple):
    """How networks do on the test split, by JAX.

    Attributes:
      logits: of all of them together, `[n, classes]`.
      together: `count`, `accuracy` and `loss` of all together.
      each: the same of each.
      confusion: counts, rows the labels, columns what they are taken for.
    """

    logits: np.ndarray
    together: dict[str, float | int]
    each: list[dict[str, float | int]]
    confusion: np.ndarray


class Parity(NamedTuple):
    """How a file does on the test split beside JAX.

    Attributes:
      by: what ran it, with its version.
      images: how many there are.
      agreement: of so many the class is the same.
      difference: the largest of two logits.
      largest: the largest logit, by JAX.
    """

    by: str
    images: int
    agreement: int
    difference: float
    largest: float


def score(members: Sequence[Member], dataset: data.Dataset) -> Scored:
    """Scores networks on the whole test split."""
    test = dataset.splits["test"]
    labels, names = np.asarray(test.labels), ("loss", "accuracy")
    each = [
        ensemble.logits(member.trained, test.images, member.experiment.eval.batch_size, 1)
        for member in members
    ]
    together = ensemble.mean(each)
    return Scored(
        together,
        ensemble.scores(names, together, labels),
        [ensemble.scores(names, logits, labels) for logits in each],
        metrics.confusion(labels, together.argmax(-1), dataset.num_classes),
    )


def metadata(members: Sequence[Member], dataset: data.Dataset, scored: Scored) -> dict[str, str]:
    """What both files tell of themselves, texts by name."""
    return {
        "mmids_cnn": mmids_cnn.__version__,
        "model": ", ".join(sorted({member.experiment.model.name for member in members})),
        "fingerprint": ", ".join(weights.fingerprint(member.trained.variables) for member in members),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "image_shape": json.dumps(dataset.image_shape),
        "class_names": json.dumps(dataset.class_names),
        "split": "test",
        "count": str(scored.together["count"]),
        "accuracy": repr(float(scored.together["accuracy"])),
    }


def safetensors(members: Sequence[Member], about: dict[str, str]) -> bytes:
    """The content of the safetensors file."""
    networks = [(one.experiment.model.name, one.trained.network, one.trained.variables) for one in members]
    return weights.encode(networks, about)


def onnx(
    members: Sequence[Member], dataset: data.Dataset, scored: Scored, about: dict[str, str]
) -> tuple[bytes, Parity]:
    """The content of the ONNX file, and how it does.

    Raises:
      ConfigError: a network has an operation that is not known to ONNX here.
      RunError: the file gives other answers than JAX.
    """
    networks = [(member.trained.network, member.trained.variables) for member in members]
    made = graph.of(networks, dataset.image_shape)
    shape, classes, version = dataset.image_shape, dataset.num_classes, mmids_cnn.__version__
    content = onnx_graph.encode(made, shape, classes, version, {})
    parity = compare(scored.logits, onnx_graph.run(content, dataset.splits["test"].images)[0])
    how = {
        "parity_by": parity.by,
        "parity_agreement": f"{parity.agreement} of {parity.images}",
        "parity_largest_difference_of_logits": repr(parity.difference),
        "parity_largest_logit": repr(parity.largest),
    }
    return onnx_graph.encode(made, shape, classes, version, {**about, **how}), parity


def compare(expected: np.ndarray, found: np.ndarray) -> Parity:
    """How the logits of an ONNX file fare beside those of JAX.

    Raises:
      RunError: a class differs, or a logit is off by more than `TOLERANCE` says.
    """
    runtime = onnx_graph.runtime()
    version = importlib.metadata.version(runtime.partition(".")[0])
    agreement = int((expected.argmax(-1) == found.argmax(-1)).sum())
    difference, largest = float(np.abs(expected - found).max()), float(np.abs(expected).max())
    if agreement < len(expected) or not difference <= TOLERANCE * max(1, largest / 100):
        raise RunError(
            f"{ONNX}: expected the answers of JAX, found the same class for {agreement:,} of "
            f"{len(expected):,} test images and logits up to {difference:.3g} off, of at most {largest:.3g}, "
            f"by {runtime} {version}; nothing was written: give --format=safetensors, and please report it"
        )
    return Parity(f"{runtime} {version}", len(expected), agreement, difference, largest)
