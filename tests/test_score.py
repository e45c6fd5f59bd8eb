"""Scoring: every example once, whatever the batch size, resident or streamed."""

import itertools
import operator

import jax
import numpy as np
import pytest

from mmids_cnn import data, model, score, train
from mmids_cnn.devices import blocks, cores
from tests.support import oracles
from tests.support.oracles import U
from tests.support.suite import Vary, digests

COUNT = 10_000

METRICS = ("loss", "accuracy")


@pytest.fixture(scope="module")
def trained(vary: Vary, mnist: data.Dataset) -> tuple[model.Network, model.Variables]:
    """A tiny network; random weights will do, if its answers are not all the same."""
    state = train.init_state(vary(model={"channels": (2,)}), mnist)
    return state.program.network, jax.tree.map(lambda x: 4 * x, state.variables)


@pytest.fixture(scope="module")
def logits(trained: tuple[model.Network, model.Variables], mnist: data.Dataset) -> np.ndarray:
    return score.logits(*trained, mnist.splits["test"].images)


def test_logits_of_many_images(
    trained: tuple[model.Network, model.Variables], mnist: data.Dataset, logits: np.ndarray
) -> None:
    want, error = oracles.forward(trained[1]["params"], mnist.splits["test"].images)
    assert logits.shape == (COUNT, 10)
    assert (abs(logits - want) <= error).all()
    assert len(np.unique(want.argmax(-1))) > 5
    images = mnist.splits["test"].images[:77]
    for batch_size in (77, 30, 1000):
        few = score.logits(*trained, images, batch_size)
        assert few.shape == (77, 10)
        assert (abs(few - want[:77]) <= error[:77]).all()


@pytest.mark.parametrize(
    ("batch_size", "resident_bytes"),
    [
        (1000, 2**30),
        (999, 2**30),
        (128, 2**30),
        (10_000, 2**30),
        (25_000, 2**30),  # more than there are
        (1000, 0),
        (999, 0),
        (128, 0),
        (25_000, 0),
    ],
)
def test_every_example_counts_once(
    trained: tuple[model.Network, model.Variables],
    mnist: data.Dataset,
    logits: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    resident_bytes: int,
) -> None:
    monkeypatch.setattr(score, "_RESIDENT_BYTES", resident_bytes)
    monkeypatch.setattr(blocks, "_CPU_EXAMPLES", batch_size)
    split = mnist.splits["test"]
    scores = score.Scorer(trained[0], METRICS, {"test": split}, batch_size)(trained[1])
    assert scores is not None
    sums = scores["test"]
    losses = oracles.cross_entropy(logits, split.labels)
    assert sums.count == COUNT
    assert sums.totals["accuracy"] == (logits.argmax(-1) == split.labels).sum()
    # A sum of 10,000 positive terms: a random walk of that many roundings. One example is 20 times as much.
    assert sums.totals["loss"] == pytest.approx(losses.sum(), rel=np.sqrt(COUNT) * U)


@pytest.mark.parametrize(  # of 300 and 1,000 the last two leave a part, or 4 and 2
    "size", [83, *(pytest.param(size, marks=pytest.mark.soak) for size in (50, 64))]
)
def test_streamed_and_resident_scores_are_the_same_bits(
    trained: tuple[model.Network, model.Variables],
    small: data.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    monkeypatch.setattr(score, "_BLOCK_EXAMPLES", 300)
    monkeypatch.setattr(blocks, "_CPU_EXAMPLES", size)
    splits = {name: small.splits[name] for name in ("train", "test")}
    resident = score.Scorer(trained[0], METRICS, splits, 300)(trained[1])
    monkeypatch.setattr(score, "_RESIDENT_BYTES", 0)
    streamed = score.Scorer(trained[0], METRICS, splits, 300)(trained[1])
    assert resident is not None and streamed is not None
    assert [(name, int(sums.count)) for name, sums in resident.items()] == [("train", 1000), ("test", 500)]
    assert digests(resident) == digests(streamed)


def test_number_of_cores_changes_no_bit(
    trained: tuple[model.Network, model.Variables], small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_BLOCK_EXAMPLES", 100)
    scores = []
    for number in (1, 2, 7):
        monkeypatch.setattr(cores, "count", lambda number=number: number)
        scores.append(score.Scorer(trained[0], METRICS, {"train": small.splits["train"]}, 1000)(trained[1]))
    assert scores[0] is not None
    assert digests(scores[0]) == digests(scores[1]) == digests(scores[2])


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_accelerators_share_out_the_members_of_a_population(
    trained: tuple[model.Network, model.Variables],
    small: data.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    resident_bytes: int,
) -> None:
    """Here with the two devices of a CPU, of which the second has one member, the first two."""
    monkeypatch.setattr(score, "_RESIDENT_BYTES", resident_bytes)
    network, variables = trained
    splits = {name: small.splits[name] for name in ("train", "test")}
    members = [jax.tree.map(lambda x, factor=factor: factor * x, variables) for factor in (1, -1, 2)]
    alone = [score.Scorer(network, METRICS, splits, 300)(member) for member in members]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scorer = score.Scorer(network, METRICS, splits, 300, population=3)
    stacked = jax.tree.map(lambda *x: np.stack(x), *members)
    together = scorer(stacked)
    assert together is not None and scorer._devices == 2
    assert None not in alone and len({float(one["test"].totals["loss"]) for one in alone if one}) == 3
    for index, one in enumerate(alone):
        assert one is not None
        for name, want in one.items():
            got = jax.tree.map(operator.itemgetter(index), together[name])
            assert (got.count, got.totals["accuracy"]) == (want.count, want.totals["accuracy"])
            assert got.totals["loss"] == pytest.approx(want.totals["loss"], rel=np.sqrt(COUNT) * U)


def test_scoring_stops_when_asked(
    trained: tuple[model.Network, model.Variables], small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_BLOCK_EXAMPLES", 200)
    scorer = score.Scorer(trained[0], METRICS, {"test": small.splits["test"]}, 100)
    for answers in ([True], [False, True], [False, False, True]):  # 500 images are three calls
        assert scorer(trained[1], itertools.chain(answers, itertools.repeat(False)).__next__) is None
    scores = scorer(trained[1], iter([False] * 3).__next__)
    assert scores is not None and scores["test"].count == 500
