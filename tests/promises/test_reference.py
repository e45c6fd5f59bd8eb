"""The course notebook's fourteen steps, row by row, on real MNIST."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, loop, model, score, train
from tests.support.suite import Vary


@pytest.fixture(scope="module")
def untrained(experiment: config_lib.Experiment, mnist: data.Dataset) -> train.TrainState:
    return train.init_state(experiment, mnist)


@pytest.fixture(scope="module")
def pieces(vary: Vary, small: data.Dataset) -> list[list[loop.Point]]:
    """One epoch of the small set, then nine more."""
    first = list(loop.fit(vary(num_epochs=1), small))
    return [first, list(loop.fit(vary(num_epochs=10), small, first[-1].state, scored=True))]


def rows(points: list[loop.Point]) -> list[loop.Row]:
    return [row for point in points for row in point.rows]


def test_row_1_the_training_split(mnist: data.Dataset) -> None:
    train_split = mnist.splits["train"]
    assert train_split.images.shape == (60_000, 28, 28, 1)
    assert train_split.labels.shape == (60_000,)
    assert train_split.labels[0] == 5
    assert mnist.num_classes == 10


def test_row_2_bytes_are_stored_and_a_flat_view_is_in_0_to_1(mnist: data.Dataset) -> None:
    image = mnist.splits["train"].images[:1]
    assert image.dtype == np.uint8
    flat = data.flat(image)
    assert flat.shape == (1, 784)
    assert flat.dtype == np.float32
    assert flat.min() == 0 and flat.max() == 1
    row, column = np.argwhere(image[0, :, :, 0] == 127)[0]
    assert round(float(flat[0, 28 * row + column]), 6) == 0.498039


def test_row_3_labels_to_unit_vectors_and_back(mnist: data.Dataset) -> None:
    five = data.one_hot(5, range(10))
    assert five.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert data.one_cold(five, range(10)) == 5
    labels = mnist.splits["test"].labels
    vectors = data.one_hot(labels, range(10))
    assert vectors.shape == (10_000, 10)
    assert (data.one_cold(vectors, range(10)) == labels).all()
    assert data.one_cold(data.one_hot("c", ["a", "b", "c"]), ["a", "b", "c"]) == "c"
    with pytest.raises(ValueError, match="labels"):
        data.one_hot(10, range(10))


def test_rows_4_and_5_the_test_split_is_nhwc(mnist: data.Dataset) -> None:
    assert mnist.splits["test"].images.shape == (10_000, 28, 28, 1)
    assert mnist.splits["test"].labels.shape == (10_000,)
    assert mnist.image_shape == (28, 28, 1)


def test_row_6_shapes_and_parameters(experiment: config_lib.Experiment) -> None:
    # A kernel has 3 * 3 * inputs * outputs weights, a layer one bias an output:
    #   3*3*1*16 + 16 = 160, 3*3*16*32 + 32 = 4,640, 3*3*32*32 + 32 = 9,248, 3*3*32 * 10 + 10 = 2,890
    table = model.table(model.make(experiment, (28, 28, 1), 10), (28, 28, 1))
    assert [layer.output_shape for layer in table] == [(14, 14, 16), (7, 7, 32), (3, 3, 32), (10,)]
    assert [layer.parameters for layer in table] == [160, 4640, 9248, 2890]
    assert sum(layer.parameters for layer in table) == 16_938


def test_row_6_the_dense_layer_sees_288_features(untrained: train.TrainState) -> None:
    assert untrained.params["Dense_0"]["kernel"].shape == (288, 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(untrained.params)) == 16_938
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(untrained.params))


@pytest.mark.parametrize(
    ("layer", "inputs", "outputs"),
    [("ConvPool_0", 9, 144), ("ConvPool_1", 144, 288), ("ConvPool_2", 288, 288), ("Dense_0", 288, 10)],
)
def test_row_6_weights_are_glorot_uniform_and_biases_zero(
    untrained: train.TrainState, layer: str, inputs: int, outputs: int
) -> None:
    weights = np.float64(untrained.params[layer]["kernel"])
    limit = np.sqrt(6 / (inputs + outputs))
    assert abs(weights).max() <= limit
    # The square of a uniform number has mean limit**2 / 3 and variance 4 / 45 * limit**4.
    assert np.mean(weights**2) == pytest.approx(
        limit**2 / 3, abs=4 * limit**2 * np.sqrt(4 / 45 / weights.size)
    )
    assert np.mean(weights) == pytest.approx(0, abs=4 * limit / np.sqrt(3 * weights.size))
    assert not untrained.params[layer]["bias"].any()


def test_row_7_untrained_probabilities_are_near_a_tenth(
    untrained: train.TrainState, mnist: data.Dataset
) -> None:
    images = jnp.asarray(mnist.splits["test"].images[:100])
    network = untrained.program.network
    predict = jax.jit(model.predict_proba, static_argnums=0)
    batch = np.asarray(predict(network, untrained.variables, images))
    assert batch.shape == (100, 10)
    np.testing.assert_allclose(batch.sum(-1), 1, atol=10 * 2.0**-24)
    assert 0.05 < batch.min() < 0.1 < batch.max() < 0.2
    one = np.asarray(predict(network, untrained.variables, images[7]))
    np.testing.assert_allclose(one, batch[7], rtol=64 * 2.0**-24)


def test_row_8_an_epoch_is_468_steps_of_128_and_one_of_96(
    untrained: train.TrainState, experiment: config_lib.Experiment, mnist: data.Dataset
) -> None:
    batches = feed.make(experiment, mnist.splits["train"])
    assert batches.steps_per_epoch == 469 == train.steps_per_epoch(60_000, 128)
    batches.compile(untrained)
    counts = []
    for step in (467, 468):
        state = batches.advance(jax.tree.map(jnp.copy, untrained), 0, step, 1)
        counts.append(int(state.sums.count))
    assert counts == [128, 96]


def test_row_9_adam_with_its_usual_settings(
    experiment: config_lib.Experiment, untrained: train.TrainState
) -> None:
    assert untrained.program.optimizer == "adam"
    assert untrained.program.schedule == "constant"
    h = untrained.h
    assert [float(x) for x in (h.learning_rate, h.b1, h.b2, h.eps)] == [
        float(np.float32(x)) for x in (1e-3, 0.9, 0.999, 1e-8)
    ]
    assert h.label_smoothing == h.weight_decay == 0
    assert experiment.batch_size == 128 and experiment.num_epochs == 10


def test_row_10_accuracy_is_reported_before_the_first_step(pieces: list[list[loop.Point]]) -> None:
    point = pieces[0][0]
    (row,) = point.rows
    assert point.step == row["step"] == point.images == 0
    assert row["test/accuracy"] == pytest.approx(0.1, abs=0.07)
    assert row["test/loss"] == pytest.approx(np.log(10), abs=0.05)
    assert not any(name.startswith("train/") for name in row)


def test_row_11_pieces_go_on_from_one_another_and_are_timed(pieces: list[list[loop.Point]]) -> None:
    first, second = pieces
    assert [point.step for point in first][-1] == 8 == second[0].step
    assert [row["epoch"] for row in rows(first) + rows(second)] == list(range(11))
    assert second[-1].step == 80 and second[-1].images == 9_000
    for piece in pieces:
        seconds = piece[-1].seconds
        assert piece[0].seconds.train == 0 < piece[0].seconds.compile
        assert seconds.train > 0 and seconds.eval > 0
        assert seconds.compile == piece[0].seconds.compile


def test_row_12_evaluation_at_most_once_in_some_seconds(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", fake)
    monkeypatch.setattr(loop, "_PIECE_SECONDS", 0.0)  # a piece is then one step
    experiment = vary(num_epochs=2, eval={"every_epochs": 0, "every_seconds": 3.0})
    scored = []
    for point in loop.fit(experiment, small):
        if point.rows:
            scored.append(point.step)
        clock.now += 1.25  # a step takes 1.25 s: three steps are more than 3 s, two are less
    assert scored == [0, 3, 6, 9, 12, 15, 16]  # and at the end


def test_row_13_all_10_000_test_images_are_scored(untrained: train.TrainState, mnist: data.Dataset) -> None:
    test = mnist.splits["test"]
    scorer = score.Scorer(untrained.program.network, ("loss", "accuracy"), {"test": test}, 1000)
    scores = scorer(untrained.variables)
    assert scores is not None
    assert scores["test"].count == 10_000
    predictions = score.logits(untrained.program.network, untrained.variables, test.images).argmax(-1)
    assert scores["test"].totals["accuracy"] == (predictions == test.labels).sum()


def test_row_14_the_first_test_image_is_a_7(pieces: list[list[loop.Point]], mnist: data.Dataset) -> None:
    state, last = pieces[1][-1].state, rows(pieces[1])[-1]
    assert last["test/accuracy"] > 0.75
    image = jnp.asarray(mnist.splits["test"].images[0])
    predict = jax.jit(model.predict_proba, static_argnums=0)
    probabilities = np.asarray(predict(state.program.network, state.variables, image))
    assert data.one_cold(probabilities, range(10)) == 7 == mnist.splits["test"].labels[0]
    assert probabilities[7] > 0.5
