"""The network with batch norm, against Flax's own layers, and however a batch is cut."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, layers, model, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.networks import norm_net
from tests.support.everything import EVERYTHING
from tests.support.suite import BatchOf, Vary, digests, step

SMALL = {"name": "norm_net", "channels": (4, 6), "depths": (1, 2), "flatten": False, "dropout": 0.25}


def resolved(vary: Vary, settings: dict[str, Any], **changes: Any) -> config_lib.Experiment:
    return config_lib.resolve(config_lib.to_dict(vary(**changes)) | {"model": settings})


class Plain(nn.Module):
    """The same network of Flax's layers: images first, statistics of all that it is given."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images / 255.0
        for stage, (features, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            for index in range(depth):
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                if index == depth - 1 and stage < len(self.depths) - 1:
                    x = nn.max_pool(x, (2, 2), (2, 2))
                norm = nn.BatchNorm(not train, momentum=norm_net.MOMENTUM, epsilon=layers.norm.EPSILON)
                x = nn.relu(norm(x))
        return nn.Dense(10)(x.mean((1, 2)))


def as_plain(variables: model.Variables) -> dict[str, Any]:
    """The variables of the network as those of `Plain`."""
    params: dict[str, Any] = {"Dense_0": variables["params"]["Dense_0"]}
    stats: dict[str, Any] = {}
    for index in range(len(variables["params"]) - 1):
        own, number = variables["params"][f"ConvNorm_{index}"], f"{index}"
        params[f"Conv_{number}"] = {"kernel": own["kernel"]}
        params[f"BatchNorm_{number}"] = {"scale": own["scale"], "bias": own["bias"]}
        stats[f"BatchNorm_{number}"] = variables["batch_stats"][f"ConvNorm_{index}"]
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("train_mode", [False, True], ids=["scoring", "training"])
def test_it_is_flaxs(vary: Vary, small: data.Dataset, batch_of: BatchOf, train_mode: bool) -> None:
    experiment = resolved(vary, SMALL | {"dropout": 0.0})
    state = train.init_state(experiment, small)
    images = batch_of(range(32), 32).images
    plain = Plain((4, 6), (1, 2))
    key, random = jax.random.key(0), np.random.default_rng(0)
    added = lambda x: jnp.asarray(x + 0.3 * np.abs(random.normal(size=x.shape)), jnp.float32)  # noqa: E731
    variables = jax.tree.map(added, jax.device_get(dict(state.variables)))

    def ours(params: Any) -> Any:
        mixed = {**variables, "params": params}
        if not train_mode:
            return model.apply(state.program.network, mixed, images), None
        return model.apply_train(state.program.network, mixed, images, jnp.ones(32, bool), key)

    def flaxs(params: Any) -> Any:
        mixed = as_plain({**variables, "params": params})
        if not train_mode:
            return plain.apply(mixed, images, train=False), None
        return plain.apply(mixed, images, train=True, mutable=["batch_stats"])

    def loss(function: Any, params: Any) -> jax.Array:
        return jnp.sin(function(params)[0]).sum()

    def both(function: Any) -> Any:
        return jax.jit(lambda p: (function(p), jax.grad(functools.partial(loss, function))(p)))

    outputs, gradients = zip(
        *(both(function)(variables["params"]) for function in (ours, flaxs)), strict=True
    )
    (got, stats), (want, expected) = outputs
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * float(jnp.abs(other).max()))
    if train_mode:
        for index, found in enumerate(stats["batch_stats"].values()):
            for name in ("mean", "var"):
                other = expected["batch_stats"][f"BatchNorm_{index}"][name]
                np.testing.assert_allclose(found[name], other, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("count", [128, 100, 96, 33])
def test_slices_give_what_the_whole_batch_does(
    vary: Vary, small: data.Dataset, batch_of: BatchOf, count: int
) -> None:
    """As accelerators take it: ghost batch by ghost batch, the last one with fewer examples."""
    experiment = resolved(vary, SMALL | {"dropout": 0.0})
    state = train.init_state(experiment, small)
    assert state.program.cut.groups == 4
    whole = train.init_state(experiment, small)
    whole = whole.replace(program=dataclasses.replace(state.program, cut=train.microbatches.WHOLE))
    batch = batch_of(range(count), 128)
    (cut, sums), (together, others) = jax.device_get([step(one, batch) for one in (state, whole)])
    assert sums.count == others.count == count
    np.testing.assert_allclose(sums.totals["loss"], others.totals["loss"], rtol=1e-5)
    pairs = zip(*(jax.tree.leaves(one.collections) for one in (cut, together)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    moments = [one.opt_state[0].mu for one in (cut, together)]
    for one, other in zip(*map(jax.tree.leaves, moments), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


@pytest.mark.soak
def test_running_statistics_are_those_of_ghost_batches(
    vary: Vary, small: data.Dataset, batch_of: BatchOf
) -> None:
    state = train.init_state(resolved(vary, SMALL), small)
    after, _ = step(state, batch_of(range(70), 128))  # 32, 32 and 6 of them
    kernel = np.asarray(state.params["ConvNorm_0"]["kernel"], np.float64)[:, :, 0]
    x = np.pad(np.asarray(batch_of(range(70), 70).images, np.float64)[..., 0] / 255, ((0, 0), (1, 1), (1, 1)))
    out = np.sum([x[:, i : i + 28, j : j + 28, None] * kernel[i, j] for i in range(3) for j in range(3)], 0)
    out = out.reshape(70, 14, 2, 14, 2, 4).max((2, 4))
    ghosts = [out[:32], out[32:64], out[64:]]
    mean = sum(len(one) * one.mean((0, 1, 2)) for one in ghosts) / 70
    var = sum(len(one) * one.var((0, 1, 2)) for one in ghosts) / 70
    got = after.collections["batch_stats"]["ConvNorm_0"]
    np.testing.assert_allclose(got["mean"], (1 - norm_net.MOMENTUM) * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["var"], norm_net.MOMENTUM + (1 - norm_net.MOMENTUM) * var, rtol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize(
    "batch_size",
    [
        90,
        64,
    ],  # a ghost batch that is not full, and a slice without any example; a single group for each of two
)
def test_no_bit_depends_on_devices_placement_or_pieces(
    vary: Vary, small: data.Dataset, batch_size: int
) -> None:
    experiment = resolved(vary, SMALL, batch_size=batch_size, **EVERYTHING)
    results = []
    for devices, placement, pieces in (
        (1, feed.Resident, [(0, 8)]),
        (2, feed.Streamed, [(0, 3), (3, 5)]),
    ):
        state = train.init_state(experiment, small)
        cut = state.program.cut._replace(devices=devices)
        state = state.replace(program=dataclasses.replace(state.program, cut=cut))
        state = jax.device_put(state, feed.mesh.replicated(devices))
        batches = placement(small.splits["train"], batch_size)
        batches.compile(state)
        for first, count in pieces:
            state = batches.advance(state, 0, first, count)
        results.append(digests(state))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (1,)}, "depths: expected one for each of the 2 stages"),
        (
            {"channels": (4,) * 6, "depths": (1,) * 6},
            "channels: expected at most 5 stages for images of 28x28",
        ),
    ],
)
def test_fields_that_do_not_fit(
    vary: Vary, small: data.Dataset, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train.program(resolved(vary, SMALL | settings), small)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_slices_leave_out_other_features(
    vary: Vary, small: data.Dataset, batch_of: BatchOf, dropout: float
) -> None:
    state = train.init_state(resolved(vary, SMALL | {"dropout": dropout}), small)
    batch, first = batch_of(range(32), 32), jnp.arange(32, dtype=jnp.int32)
    rest: Any = (jnp.int32(32), state.h, state.step, state.program)
    loss = jax.jit(lambda position: train.loss_fn(state.params, state.collections, batch, position, *rest)[0])
    assert (loss(first) != loss(first + 32)) == (dropout > 0)
