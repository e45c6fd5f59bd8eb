"""`train_step` and the random streams: what a step does, leaves alone and refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, losses, model, train
from mmids_cnn.devices import microbatches
from mmids_cnn.storage import digests as stored
from tests.support import oracles
from tests.support.oracles import U
from tests.support.suite import BatchOf, Vary, digests, step

TINY = {"channels": (2,)}


@pytest.fixture(scope="module")
def start(experiment: config_lib.Experiment, small: data.Dataset) -> train.TrainState:
    """The untrained state, with b1 = 0: Adam's mean is then the last gradient itself."""
    state = train.init_state(experiment, small)
    return state.replace(h=state.h._replace(b1=jnp.float32(0)))


def gradient(state: train.TrainState) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state[0].mu)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_equal_to_rounding(got: train.TrainState, want: train.TrainState) -> None:
    """Gradients are sums over up to 128 * 784 pixels: roundings of either sign grow as the root of that."""
    for name, leaf in gradient(want).items():
        assert abs(leaf).max() > 0, name
        assert abs(gradient(got)[name] - leaf).max() <= np.sqrt(128 * 784) * U * abs(leaf).max(), name
    assert got.sums.totals["loss"] == pytest.approx(float(want.sums.totals["loss"]), rel=128 * U)
    assert got.sums.totals["accuracy"] == want.sums.totals["accuracy"]
    assert got.sums.count == want.sums.count


@pytest.mark.soak
def test_a_step_is_the_same_without_jit(vary: Vary, small: data.Dataset, batch_of: BatchOf) -> None:
    tiny = {"channels": (2,), "kernel_size": 1}  # every operation is compiled by itself
    state = train.init_state(vary(model=tiny, optimizer={"b1": 0.0}, batch_size=16), small)
    state = state.replace(program=dataclasses.replace(state.program, cut=microbatches.WHOLE))
    batch = batch_of(range(12), 16)
    jitted, plain = step(state, batch), train.train_step(state, batch)
    assert_equal_to_rounding(jitted[0], plain[0])
    assert jitted[0].step == plain[0].step == 1
    assert jitted[1].count == plain[1].count == 12


def test_the_order_within_a_batch_changes_nothing_but_rounding(
    start: train.TrainState, batch_of: BatchOf
) -> None:
    order = np.random.default_rng(0).permutation(128)
    assert_equal_to_rounding(step(start, batch_of(order, 128))[0], step(start, batch_of(range(128), 128))[0])


def test_a_padded_batch_of_96_counts_as_96(start: train.TrainState, batch_of: BatchOf) -> None:
    padded, sums = step(start, batch_of(range(96), 128))
    alone, _ = step(start, batch_of(range(96), 96))
    assert_equal_to_rounding(padded, alone)
    batch = batch_of(range(96), 96)
    images, labels = np.asarray(batch.images), np.asarray(batch.labels)
    loss, error = oracles.loss_sum(start.params, images, labels)
    assert abs(sums.totals["loss"] - loss) <= error < 1e-3 * loss / 96
    assert sums.count == 96
    assert sums.totals["accuracy"] == (oracles.forward(start.params, images)[0].argmax(-1) == labels).sum()


def test_the_gradient_of_a_padded_batch_is_a_mean_over_96(start: train.TrainState, batch_of: BatchOf) -> None:
    batch = batch_of(range(96), 128)
    got = gradient(step(start, batch)[0])["['Dense_0']['bias']"]
    logits, error = oracles.forward(start.params, np.asarray(batch.images[:96]))
    each = oracles.softmax(logits) - np.eye(10)[np.asarray(batch.labels[:96])]
    assert (abs(got - each.mean(0)) <= error.max() + 96 * U * abs(each).mean(0)).all()


def test_what_fills_up_a_batch_changes_no_bit(start: train.TrainState, batch_of: BatchOf) -> None:
    black, garbage = batch_of(range(96), 128), batch_of(range(500, 628), 128)
    garbage = jax.tree.map(lambda real, junk: real.at[96:].set(junk[96:]), black, garbage)
    garbage = garbage._replace(valid=black.valid)
    assert digests(garbage.images) != digests(black.images)
    assert digests(step(start, garbage)) == digests(step(start, black))


def test_sums_add_up_over_steps_and_restart_with_the_epoch(
    start: train.TrainState, batch_of: BatchOf
) -> None:
    state, first = step(start, batch_of(range(128), 128))
    state, second = step(state, batch_of(range(96), 128))
    assert state.sums.count == 224
    assert state.sums.totals["loss"] == first.totals["loss"] + second.totals["loss"]
    assert state.sums.totals["accuracy"] == first.totals["accuracy"] + second.totals["accuracy"]
    again = train.begin_epoch(state)
    assert digests(again.sums) == digests(start.sums)
    assert digests(again.replace(sums=state.sums)) == digests(state)


def test_the_average_of_the_weights_follows_its_formula(
    vary: Vary, small: data.Dataset, batch_of: BatchOf
) -> None:
    """Its decay is 1/10, 2/11 and 3/12 in three steps, then the one that is set."""
    decay = np.float32(0.28)
    state = train.init_state(vary(model=TINY, train={"average_decay": float(decay)}), small)
    want = jax.tree.map(np.float64, jax.device_get(state.params))
    for number, rising in enumerate((1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14)):
        state, _ = step(state, batch_of(range(32 * number, 32 * number + 32), 32))
        factor = min(rising, float(decay))
        want = jax.tree.map(
            lambda old, new, factor=factor: factor * old + (1 - factor) * new, want, state.params
        )
    for got, exact in zip(jax.tree.leaves(state.scored["params"]), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=20 * U * abs(exact).max())
    moved = jax.tree.map(lambda one, other: abs(one - other).max(), state.params, state.scored["params"])
    assert min(map(float, jax.tree.leaves(moved))) > 1e-4  # an average is not the weights themselves


def test_a_fingerprint_is_of_all_variables(start: train.TrainState) -> None:
    """Parameters keep their paths where a collection has the name of a layer."""
    alone = [path for path, _ in stored.leaves(train.trained(start))]
    for name in ("statistics", "Dense_0"):
        state = start.replace(collections={name: {"kernel": jnp.ones(3)}})
        paths = [path for path, _ in stored.leaves(train.trained(state))]
        assert {*alone} < {*paths} and len(paths) == len(alone) + 1


def test_label_smoothing_draws_targets_towards_the_mean(start: train.TrainState, batch_of: BatchOf) -> None:
    batch = batch_of(range(128), 128)
    smooth = start.replace(h=start.h._replace(label_smoothing=jnp.float32(0.25)))
    state, sums = step(smooth, batch)
    logits, error = oracles.forward(start.params, np.asarray(batch.images))
    target = 0.75 * np.eye(10)[np.asarray(batch.labels)] + 0.025
    want = (oracles.softmax(logits) - target).mean(0)
    got = gradient(state)["['Dense_0']['bias']"]
    assert (abs(got - want) <= error.max() + 128 * U).all()
    assert (
        sums.totals["loss"] == step(start, batch)[1].totals["loss"]
    )  # the loss that is reported is the plain one


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_without_weights_the_loss_is_ln_10(
    start: train.TrainState, batch_of: BatchOf, smoothing: float
) -> None:
    state = start.replace(params=jax.tree.map(jnp.zeros_like, start.params))
    state = state.replace(h=state.h._replace(label_smoothing=jnp.float32(smoothing)))
    _, sums = step(state, batch_of(range(128), 128))
    assert sums.totals["loss"] == pytest.approx(128 * np.log(10), rel=128 * U)


def test_an_image_does_not_see_the_others_of_its_batch(start: train.TrainState, batch_of: BatchOf) -> None:
    apply = jax.jit(model.apply, static_argnums=0)
    one, other = batch_of(range(128), 128).images, batch_of(range(128, 256), 128).images
    network = start.program.network
    mixed = apply(network, start.variables, other.at[5].set(one[5]))
    alone = apply(network, start.variables, one)
    assert digests(mixed[5]) == digests(alone[5])
    assert not (mixed == alone)[np.arange(128) != 5].all(-1).any()


def scaled(state: train.TrainState, scales: dict[str, float]) -> train.TrainState:
    params = {name: {k: v * scales[name] for k, v in layer.items()} for name, layer in state.params.items()}
    return state.replace(params=params)


LARGE_LOSS = {"ConvPool_0": 1e13, "ConvPool_1": 1e13, "ConvPool_2": 1e13, "Dense_0": 1e13}
LARGE_GRADIENT = {"ConvPool_0": 1e-30, "ConvPool_1": 1e15, "ConvPool_2": 1e15, "Dense_0": 1e15}
LARGE_MOMENT = {
    "ConvPool_0": 1e-22,
    "ConvPool_1": 1e10,
    "ConvPool_2": 1e10,
    "Dense_0": 1e4,
}  # the square overflows


@pytest.mark.parametrize(
    "scales", [LARGE_LOSS, LARGE_GRADIENT, LARGE_MOMENT], ids=["loss", "gradient", "moment"]
)
def test_a_step_that_is_not_finite_freezes_the_state(
    start: train.TrainState, batch_of: BatchOf, scales: dict[str, float]
) -> None:
    # Weights so large that ink overflows float32, while a black image gives logits of 0.
    before = scaled(start, scales)
    before = before.replace(opt_state=step(start, batch_of(range(128), 128))[0].opt_state)
    failed, sums = step(before, batch_of(range(128), 128))
    assert np.isfinite(sums.totals["loss"]) == (scales is not LARGE_LOSS)
    if scales is LARGE_MOMENT:
        images, labels, _ = batch_of(range(128), 128)

        def loss(params: model.Params) -> jax.Array:
            logits = model.apply(before.program.network, {"params": params}, images)
            return losses.cross_entropy(logits, labels).mean()

        gradient = jax.jit(jax.grad(loss))(before.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert failed.nonfinite == 1
    assert digests(failed.replace(nonfinite=before.nonfinite)) == digests(before)
    black = batch_of([], 128)._replace(valid=jnp.ones(128, bool))
    later, sums = step(failed, black)
    assert sums.totals["loss"] == pytest.approx(128 * np.log(10), rel=128 * U)  # finite, and yet
    assert digests(later) == digests(failed)


def test_a_step_that_is_not_finite_is_skipped(vary: Vary, small: data.Dataset, batch_of: BatchOf) -> None:
    experiment = vary(train={"on_nonfinite": "skip"}, model=TINY, optimizer={"b1": 0.0})
    before = scaled(train.init_state(experiment, small), {"ConvPool_0": 1e25, "Dense_0": 1e25})
    skipped, sums = step(before, batch_of(range(128), 128))
    assert not np.isfinite(sums.totals["loss"])
    assert (skipped.step, skipped.nonfinite) == (1, 1)
    assert digests(skipped.replace(step=before.step, nonfinite=before.nonfinite)) == digests(before)
    black = batch_of([], 128)._replace(valid=jnp.ones(128, bool))
    later, _ = step(skipped, black)
    assert (later.step, later.nonfinite, later.sums.count) == (2, 1, 128)
    moved = later.params["Dense_0"]["bias"] - before.params["Dense_0"]["bias"]
    assert (abs(moved) > 0.9e-3).all()  # Adam's first step: the rate, 1e-3


def train_three_steps(experiment: config_lib.Experiment, dataset: data.Dataset) -> train.TrainState:
    batches = feed.make(experiment, dataset.splits["train"])
    state = train.init_state(experiment, dataset)
    batches.compile(state)
    return batches.advance(state, 0, 0, 3)


def test_a_seed_gives_the_same_bits_again_and_another_seed_others(vary: Vary, small: data.Dataset) -> None:
    states = [train_three_steps(vary(seed=seed, model=TINY), small) for seed in (3, 3, 4)]
    same, again, other = (digests(state.params) for state in states)
    assert same == again
    assert all(same[name] != other[name] for name in same)


def test_seeds_begin_with_different_weights(vary: Vary, small: data.Dataset) -> None:
    one, other = (train.init_state(vary(seed=seed), small).params for seed in (0, 1))
    for layer in one:
        first, second = (np.asarray(params[layer]["kernel"]) for params in (one, other))
        # Independent numbers differ by sqrt(2) of their spread.
        assert np.std(first - second) == pytest.approx(np.sqrt(2) * np.std(first), rel=0.2)
