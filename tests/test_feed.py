"""The order of examples, and the two feeds: same examples, same bits, in whatever pieces."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, loop, score, train
from mmids_cnn import epoch as epoch_lib
from mmids_cnn.devices import mesh, microbatches
from mmids_cnn.errors import ConfigError
from tests.support.everything import EVERYTHING
from tests.support.suite import Vary, digests, step

TINY = {"channels": (2,)}


def order_of(seed: int, epoch: int, num_examples: int = 1000, batch_size: int = 128) -> np.ndarray:
    return np.asarray(epoch_lib.epoch_order(jnp.uint32(seed), jnp.int32(epoch), num_examples, batch_size))


def run(
    batches: feed.Feed,
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    pieces: list[tuple[int, int]],
) -> train.TrainState:
    """The state after pieces (first step of the run, number of steps), none of which crosses an epoch."""
    state = train.init_state(experiment, dataset)
    batches.compile(state)
    for start, count in pieces:
        epoch, first = divmod(start, batches.steps_per_epoch)
        state = batches.advance(state, epoch, first, count)
    return state


def test_a_step_trains_on_the_examples_that_the_order_names(vary: Vary, small: data.Dataset) -> None:
    experiment = vary(model=TINY)
    got = run(feed.Resident(small.splits["train"], 128), experiment, small, [(0, 8), (15, 1)])
    state = train.init_state(experiment, small)
    images, labels = (jnp.asarray(array) for array in small.splits["train"])
    for number in [*range(8), 15]:
        epoch, index = divmod(number, 8)
        chosen = order_of(0, epoch)[index * 128 : index * 128 + 128]
        valid = jnp.arange(128) < (104 if index == 7 else 128)
        state, _ = step(state, train.Batch(images[chosen], labels[chosen], valid))
    assert int(got.sums.count) == 1104
    assert int(got.sums.totals["accuracy"]) == int(state.sums.totals["accuracy"])
    # Another program rounds in other places; an example too many or too few moves weights by some 1e-4.
    for one, other in zip(jax.tree.leaves(got.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "channels", "pieces"),
    [
        (128, (16, 32, 32), [(0, 2), (2, 5), (7, 1), (8, 8)]),  # 8 steps, the last of 104; chunks of 3
        pytest.param(  # 4 steps, the last of a single example
            *(333, (2,), [(0, 1), (1, 3), (4, 2), (6, 2)]), marks=pytest.mark.soak
        ),
        # One part a step and few channels: where XLA once fused the taking of a batch into its loss.
        pytest.param(*(32, (4,), [(0, 13), (13, 19), (32, 5)]), marks=pytest.mark.soak),
    ],
)
def test_resident_and_streamed_give_the_same_bits(
    vary: Vary,
    small: data.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    channels: tuple[int, ...],
    pieces: list[tuple[int, int]],
) -> None:
    monkeypatch.setattr(feed, "_CHUNK_STEPS", 3)
    more = EVERYTHING if batch_size == 32 else {}
    experiment = vary(batch_size=batch_size, model={"channels": channels}, **more)
    split = small.splits["train"]
    resident = run(feed.Resident(split, batch_size), experiment, small, pieces)
    streamed = run(feed.Streamed(split, batch_size), experiment, small, pieces)
    assert resident.step == sum(count for _, count in pieces)
    assert digests(resident) == digests(streamed)


@pytest.mark.soak
@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_batch_of_more_than_all_examples_is_one_of_all(
    vary: Vary, small: data.Dataset, placement: str
) -> None:
    """Nothing is padded: the program, hence its time, is that of a batch as large as the data."""
    states = [
        run(feed.make(experiment, small.splits["train"]), experiment, small, [(0, 1), (1, 1)])
        for experiment in (
            vary(batch_size=size, model=TINY, dataset={"placement": placement}) for size in (1000, 2500)
        )
    ]
    assert states[0].program == states[1].program
    assert digests(states[0]) == digests(states[1])


def test_chunks_are_limited_in_bytes(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, split = vary(model=TINY, batch_size=250), small.splits["train"]
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 2 * 250 * 784)
    sent, put = set(), jax.make_array_from_callback

    def spy(shape: tuple[int, ...], *rest: Any) -> Any:
        sent.add(shape)
        return put(shape, *rest)

    monkeypatch.setattr(jax, "make_array_from_callback", spy)
    state = run(feed.Streamed(split, 250), experiment, small, [(0, 4)])
    images = {shape for shape in sent if len(shape) == 5 and shape[1] == 250}  # others: of feeds before
    assert images == {(2, 250, 28, 28, 1)}
    assert state.sums.count == 1000


def test_chunks_that_are_used_up_leave_the_memory(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_CHUNK_STEPS", 1)
    batches = feed.Streamed(small.splits["train"], 125)
    experiment = vary(model=TINY, batch_size=125)
    state = train.init_state(experiment, small)
    batches.compile(state)
    for epoch in (0, 1):
        for first in range(8):
            state = batches.advance(state, epoch, first, 1)
            there = sum(array.shape == (1, 125, 28, 28, 1) for array in jax.live_arrays())
            assert there <= 2  # this one and, perhaps, the next
    assert int(state.step) == 16


@pytest.mark.parametrize(
    ("placement", "resident_bytes", "kind"),
    [
        ("auto", 2**30, feed.Resident),
        ("auto", 784_000, feed.Resident),
        ("auto", 783_999, feed.Streamed),
        ("resident", 0, feed.Resident),
        ("streamed", 2**30, feed.Streamed),
    ],
)
def test_placement(
    vary: Vary,
    small: data.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    placement: str,
    resident_bytes: int,
    kind: type,
) -> None:
    monkeypatch.setattr(feed, "RESIDENT_BYTES", resident_bytes)
    assert type(feed.make(vary(dataset={"placement": placement}), small.splits["train"])) is kind


@pytest.mark.soak
@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_a_feed_keeps_the_orders_of_two_seeds_apart(vary: Vary, small: data.Dataset, placement: str) -> None:
    experiments = [vary(seed=seed, model=TINY, dataset={"placement": placement}) for seed in (0, 1)]
    own, shared = (feed.make(experiments[0], small.splits["train"]) for _ in range(2))
    run(shared, experiments[0], small, [(0, 1)])
    assert digests(run(shared, experiments[1], small, [(0, 2)])) == digests(
        run(own, experiments[1], small, [(0, 2)])
    )


def test_population_on_streamed_data_is_refused(vary: Vary, small: data.Dataset) -> None:
    experiment = vary(model=TINY, dataset={"placement": "streamed"})
    population = train.init_population([experiment, experiment], small)
    with pytest.raises(ConfigError, match="expected resident data for a population"):
        list(loop.fit(experiment, small, population))


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_pieces_give_the_bits_of_one_run(vary: Vary, small: data.Dataset, placement: str) -> None:
    experiment = vary(model=TINY, dataset={"placement": placement})
    results = [
        run(feed.make(experiment, small.splits["train"]), experiment, small, pieces)
        for pieces in ([(0, 8), (8, 8)], [(0, 1), (1, 7), (8, 3), (11, 5)], [(i, 1) for i in range(16)])
    ]
    assert digests(results[0]) == digests(results[1]) == digests(results[2])


def test_fit_in_pieces_gives_the_bits_of_one_run(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PIECE_SECONDS", 0.0)  # steps come one by one
    whole = list(loop.fit(vary(num_epochs=4, model=TINY), small))
    one = list(loop.fit(vary(num_epochs=1, model=TINY), small))
    more = loop.fit(vary(num_epochs=3, model=TINY), small, one[-1].state, scored=True)
    point = next(point for point in more if point.step >= 11 and point.step % 8)  # stopped within an epoch
    state = jax.tree.map(jnp.copy, point.state)
    monkeypatch.setattr(loop, "_PIECE_SECONDS", 1e9)  # and now by the epoch
    rest = list(loop.fit(vary(num_epochs=4, model=TINY), small, state, scored=True))
    assert rest[0].step == point.step and rest[-1].step == 32
    assert digests(rest[-1].state) == digests(whole[-1].state)
    assert rest[-1].rows == whole[-1].rows
    assert whole[-1].rows[0]["train/count"] == 1000


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows with every program that is compiled."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_nothing_is_compiled_after_the_first_piece(
    vary: Vary,
    small: data.Dataset,
    compilations: list[str],
    monkeypatch: pytest.MonkeyPatch,
    placement: str,
) -> None:
    # 90 divides nothing and no other test uses it: no program can have been left over by one.
    experiment = vary(batch_size=90, num_epochs=3, model=TINY, dataset={"placement": placement})
    counts, steps = [], []
    allowed = [0.0, 0.0, *[1e9] * 4, 0.0, *[1e9] * 4]
    for point, seconds in zip(loop.fit(experiment, small), allowed, strict=True):
        counts.append(len(compilations))
        steps.append(point.step)
        monkeypatch.setattr(loop, "_PIECE_SECONDS", seconds)  # how long the next piece may take
    assert steps == [0, 1, 2, 4, 8, 12, 24, 25, 27, 31, 36]  # pieces double, and end with an epoch
    assert counts[0] > 0
    assert counts[1:] == [counts[1]] * 10


def trained_on(
    devices: int, experiment: config_lib.Experiment, dataset: data.Dataset, epochs: int
) -> dict[str, str]:
    """Digests of the state after some epochs on some devices."""
    state = train.init_state(experiment, dataset)
    state = state.replace(
        program=dataclasses.replace(state.program, cut=state.program.cut._replace(devices=devices))
    )
    state = jax.device_put(state, mesh.replicated(devices))
    batches = feed.make(experiment, dataset.splits["train"])
    batches.compile(state)
    for epoch in range(epochs):
        state = batches.advance(state, epoch, 0, batches.steps_per_epoch)
    assert len(state.step.sharding.device_set) == devices
    return digests(state)


@pytest.mark.parametrize(
    ("placement", "batch_size"),
    [
        ("resident", 128),
        pytest.param("streamed", 512, marks=pytest.mark.soak),
        pytest.param("resident", 251, marks=pytest.mark.soak),
    ],
    ids=lambda value: value if isinstance(value, str) else f"batch {value}",
)
def test_number_of_devices_changes_no_bit(
    vary: Vary, small: data.Dataset, placement: str, batch_size: int
) -> None:
    schedule = {"name": "adamw", "schedule": "one_cycle", "weight_decay": 1e-2}
    channels = (8, 8) if batch_size == 128 else (4,)  # with the layer of many channels, and without
    settings = {"dataset": {"placement": placement}, "optimizer": schedule, "model": {"channels": channels}}
    experiment = vary(batch_size=batch_size, **((EVERYTHING if batch_size == 128 else {}) | settings))
    cut = train.program(experiment, small).cut
    assert (cut.groups, cut.slices) == {128: (4, 1), 512: (8, 2), 251: (8, 1)}[batch_size]
    assert cut.devices == jax.device_count() == 2
    assert trained_on(1, experiment, small, 3) == trained_on(2, experiment, small, 3)


@pytest.mark.soak
@pytest.mark.parametrize(
    "model",
    [
        {"name": "conv_net", "channels": (4,), "kernel_size": 3},
        {"name": "norm_net", "channels": (4, 4), "depths": (1, 1), "flatten": True, "dropout": 0.0},
    ],
    ids=lambda model: model["name"],
)
def test_accelerators_share_a_batch(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    """They round otherwise than one does, and no more than that; here with the devices of a CPU."""
    settings = config_lib.to_dict(vary(batch_size=128, optimizer={"name": "sgd", "learning_rate": 0.1}))
    experiment = config_lib.resolve(settings | {"model": model})
    state = train.init_state(experiment, small)
    with monkeypatch.context() as accelerated:
        accelerated.setattr(jax, "default_backend", lambda: "gpu")
        cut = microbatches.cut(128, 784, 32)
        assert [microbatches.cut(*sizes).devices for sizes in ((127, 784), (96, 784, 32))] == [1, 1]
    assert cut == microbatches.cut(128, 784)._replace(groups=2, slices=1, devices=2, size=0, alike=False)
    states = []
    for each in (cut, microbatches.WHOLE):
        it = state.replace(program=dataclasses.replace(state.program, cut=each))
        it = jax.device_put(jax.tree.map(jnp.copy, it), mesh.replicated(each.devices))
        batches = feed.make(experiment, small.splits["train"])
        with monkeypatch.context() as accelerated:
            accelerated.setattr(jax, "default_backend", lambda: "gpu")
            batches.compile(it)
        states.append(jax.device_get(batches.advance(it, 0, 0, 8)))
    for shared, alone in zip(*(jax.tree.leaves(one.variables) for one in states), strict=True):
        np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-5)


def test_what_an_accelerator_carries_as_vectors_are_the_same_numbers(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm_net = {"name": "norm_net", "channels": (4,), "depths": (1,), "flatten": False, "dropout": 0.0}
    tree = config_lib.to_dict(vary(**EVERYTHING, batch_size=32))
    state = train.init_state(config_lib.resolve(tree | {"model": norm_net}), small)
    order, split = jnp.asarray(order_of(0, 0, batch_size=32)), [*map(jnp.asarray, small.splits["train"])]
    programs, after = [], []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        steps = jax.jit(feed.resident_steps(32, None))
        programs.append(steps.lower(state, order, *split, jnp.int32(0), jnp.int32(3)))
        trained = programs[-1].compile()(state, order, *split, jnp.int32(0), jnp.int32(3))
        after.append(digests(train.to_saved(trained)))
    assert programs[0].as_text() != programs[1].as_text()
    assert after[0] == after[1]

    def there_and_back(state: train.TrainState) -> train.TrainState:
        pack, unpack = epoch_lib._packing(state)
        return unpack(pack(state))

    both = jax.tree.map(lambda one: jnp.stack([one, one + jnp.ones_like(one)]), state)
    assert digests(train.to_saved(jax.vmap(there_and_back)(both))) == digests(train.to_saved(both))


def test_devices_exchange_once_a_step(vary: Vary, small: data.Dataset) -> None:
    """Between hosts an exchange takes as long as all the products of a small network."""
    experiment = vary(**EVERYTHING, batch_size=128)
    state = train.init_state(experiment, small)
    state = jax.device_put(state, mesh.replicated(state.devices))
    batches = feed.make(experiment, small.splits["train"])
    batches.compile(state)
    program = batches._compiled.as_text()
    exchanges = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)
    assert (state.devices, exchanges) == (2, ["all-gather"])


@pytest.mark.soak
def test_nothing_is_compiled_after_the_first_piece_of_a_population(
    vary: Vary, small: data.Dataset, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_BLOCK_EXAMPLES", 100)  # several a split
    monkeypatch.setattr(loop, "_PIECE_SECONDS", 1e9)
    experiment = vary(batch_size=92, num_epochs=3, model=TINY)
    members = [dataclasses.replace(experiment, seed=seed) for seed in range(3)]
    counts = []
    for _ in loop.fit(experiment, small, train.init_population(members, small), scored=True):
        counts.append(len(compilations))
    assert counts[0] > 0 and len(counts) > 5
    assert counts[1:] == [counts[1]] * (len(counts) - 1)


@pytest.mark.soak
def test_number_of_devices_changes_no_bit_of_large_images(vary: Vary) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 192, 192, 3), np.uint8)
    split = data.Split(images, random.integers(0, 10, 64).astype(np.int32))
    dataset = data.Dataset("large", {"train": split, "test": split}, 10, "")
    experiment = vary(batch_size=64, model={"channels": (4,)})
    cut = train.program(experiment, dataset).cut
    assert (cut.groups, cut.slices) == (8, 8)  # image by image: sums over more are cut by threads
    assert trained_on(1, experiment, dataset, 1) == trained_on(2, experiment, dataset, 1)


class FailingImages(np.ndarray):
    """Images on a disk that breaks after so many."""

    left = 3 * 128

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, np.ndarray):
            self.left -= index.size
            if self.left < 0:
                raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_an_error_while_streaming_reaches_the_caller(
    vary: Vary, small: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_CHUNK_STEPS", 3)
    images, labels = small.splits["train"]
    batches = feed.Streamed(data.Split(images.view(FailingImages), labels), 128)
    experiment = vary(model=TINY)
    state = run(batches, experiment, small, [(0, 3)])
    assert state.step == 3
    with pytest.raises(OSError, match="the disk is gone"):
        batches.advance(state, 0, 3, 1)
