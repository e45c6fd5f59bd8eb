"""What is one's own: networks with batch norm and dropout, optimizers, schedules, losses, metrics."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, model, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.populations import population
from tests.support import idx_files
from tests.support.suite import ROOT, BatchOf, CommandLine, Vary, digests, step

RESNET = {"name": "experiments.own_network:ResNet", "width": 4, "blocks": 0, "dropout": 0.25}
MINE = """
import jax.numpy as jnp
import optax
from mmids_cnn.metrics import Metric


def momentum(h, rate):
    return optax.sgd(rate, momentum=h.b1, nesterov=True)


def halves(passed):
    return 0.5 ** jnp.floor(4 * passed)


def hinge(logits, labels, h):
    right = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    others = jnp.where(jnp.arange(logits.shape[1]) == labels[:, None], -jnp.inf, logits).max(1)
    return jnp.maximum(0, 1 + others - right)


def _among_two(logits, labels):
    return (jnp.argsort(-logits)[:, :2] == labels[:, None]).any(1)


top_2 = Metric(_among_two, higher_is_better=True, percent=True)
"""
EXPERIMENT = """
from experiments import base


def get_config():
    config = base.get_config()
    config.num_epochs = 2
    config.batch_size = 32
    config.model.channels = (4,)
    config.dataset.name = "few"
    config.dataset.archives = {archives!r}
    config.optimizer.name = "mine:momentum"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "mine:halves"
    config.train.loss = "mine:hinge"
    config.eval.metrics = ("loss", "accuracy")
    return config
"""


@pytest.fixture(scope="module")
def own(vary: Vary) -> config_lib.Experiment:
    """A small residual network with batch norm and dropout."""
    return tree_with(vary(), RESNET)


def tree_with(experiment: config_lib.Experiment, settings: dict[str, Any]) -> config_lib.Experiment:
    return config_lib.resolve(config_lib.to_dict(experiment) | {"model": settings})


def mean_of_first_layer(state: train.TrainState, images: jax.Array) -> np.ndarray:
    """What the first batch norm sees of some images, its mean by channel: in NumPy's float64."""
    kernel = np.asarray(state.params["ConvNorm_0"]["kernel"], np.float64)[:, :, 0]
    x = np.pad(np.asarray(images, np.float64)[..., 0] / 255, ((0, 0), (1, 1), (1, 1)))
    shifted = [x[:, i : i + 28, j : j + 28, None] * kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(shifted, axis=0).mean((0, 1, 2))


def test_statistics_are_those_of_the_whole_batch_without_its_padding(
    own: config_lib.Experiment, small: data.Dataset, batch_of: BatchOf
) -> None:
    state = train.init_state(own, small)
    assert state.program.cut.in_one_piece
    batch = batch_of(range(96), 128)
    after, sums = step(state, batch)
    assert sums.count == 96
    (got,) = (after.collections["batch_stats"]["ConvNorm_0"]["BatchNorm_0"]["mean"],)
    expected = 0.01 * mean_of_first_layer(state, batch.images[:96])  # Flax's momentum is 0.99
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


def test_dropout_is_drawn_anew_each_step_and_never_when_scoring(
    own: config_lib.Experiment, small: data.Dataset, batch_of: BatchOf
) -> None:
    state, batch = train.init_state(own, small), batch_of(range(128), 128)
    network, valid, keys = state.program.network, batch.valid, [jax.random.key(n) for n in (1, 1, 2)]
    apply = jax.jit(model.apply_train, static_argnums=0)
    drawn = [np.asarray(apply(network, state.variables, batch.images, valid, key)[0]) for key in keys]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    score = jax.jit(model.apply, static_argnums=0)
    scored = [np.asarray(score(network, state.variables, batch.images)) for _ in range(2)]
    assert (scored[0] == scored[1]).all()
    taken = [step(state.replace(step=jnp.int32(number)), batch)[1] for number in (0, 0, 1)]
    losses = [float(one.totals["loss"]) for one in taken]
    assert losses[0] == losses[1] != losses[2]


def test_pieces_and_populations_give_the_bits_of_one_run(
    own: config_lib.Experiment, small: data.Dataset
) -> None:
    batches, whole = feed.make(own, small.splits["train"]), train.init_state(own, small)
    batches.compile(whole)
    whole = batches.advance(whole, 0, 0, 8)
    state = train.init_state(own, small)
    for first, count in ((0, 3), (3, 5)):
        state = batches.advance(state, 0, first, count)
        state = train.from_saved(train.init_state(own, small), jax.device_get(train.to_saved(state)))
    assert digests(state.variables) == digests(whole.variables)
    members = [dataclasses.replace(own, seed=seed) for seed in (1, 0)]
    both = train.init_population(members, small)
    batches.compile(both)
    both = batches.advance(both, 0, 0, 8)
    assert digests(jax.tree.map(lambda x: x[1], both.variables)) == digests(whole.variables)
    assert population.shared(members[0], small) == population.shared(members[1], small)
    narrow = tree_with(own, RESNET | {"width": 2})
    assert population.shared(narrow, small) != population.shared(own, small)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of 400 training and 200 test images."""
    return idx_files.write_set(tmp_path_factory.mktemp("few") / "archives", idx_files.digits(400, 200))


def test_own_network_from_the_command_line(few: Path, tmp_path: Path, command_line: CommandLine) -> None:
    command = (
        *(f"--config={ROOT}/experiments/base.py", "--config.model.name=experiments.own_network:ResNet"),
        *("--config.model.width=4", "--config.model.blocks=0", "--config.model.dropout=0.25"),
        *("--config.dataset.name=few", f"--config.dataset.archives={few}", "--config.batch_size=48"),
    )
    results = []
    for name, devices, epochs in (("one", "1", "2"), ("four", "4", "1"), ("four", "2", "2")):
        done = command_line(
            "main",
            *command,
            f"--config.num_epochs={epochs}",
            f"--workdir={name}",
            JAX_NUM_CPU_DEVICES=devices,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert "going on from step 9 of four" in done.stdout and "ConvNorm_0" in done.stdout
    assert results[0]["fingerprint"] == results[2]["fingerprint"]  # one go on one device; 4, then 2 devices
    assert results[0]["test/loss"] == results[2]["test/loss"]
    for module, arguments in (("evaluate", []), ("predict", ["--test_index=0"]), ("reproduce", [])):
        done = command_line(module, "--workdir=one", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("identical: ")
    provenance = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert list(provenance["sources"]) == ["experiments.own_network:ResNet"]


def test_own_parts_beside_the_experiment_file(few: Path, tmp_path: Path, command_line: CommandLine) -> None:
    place = tmp_path / "somewhere"
    place.mkdir()
    (place / "mine.py").write_text(MINE)
    (place / "try_it.py").write_text(EXPERIMENT.format(archives=str(few)))
    constant = (
        *("main", "--config=somewhere/try_it.py", "--config.eval.metrics=loss,accuracy,brier,mine:top_2"),
        *("--config.optimizer.schedule=constant", "--workdir=run"),
    )
    done = command_line(*constant, "--config.num_epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["test/accuracy"] < result["test/top_2"] <= 1
    assert 0 < result["test/brier"] < 2
    assert "test/top_2" in done.stdout and f"{100 * result['test/top_2']:.2f} %" in done.stdout
    done = command_line("evaluate", "--workdir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"top_2 {100 * result['test/top_2']:.2f} %" in done.stdout
    (place / "mine.py").write_text(MINE + "\n# changed\n")
    done = command_line("evaluate", "--workdir=run")
    assert done.returncode == 0 and "note: the source of mine:momentum was changed since" in done.stderr
    done = command_line(*constant, "--config.num_epochs=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: the source of mine:momentum was " in done.stdout
    assert "its bits may differ from an unbroken run's" in done.stdout
    done = command_line("main", "--config=somewhere/try_it.py")
    assert (done.returncode, done.stderr) == (0, "")


NETWORKS = {
    "wrong_shape": (
        "class Net(nn.Module):\n    num_classes: int\n    @nn.compact\n"
        "    def __call__(self, images, *, train=False, valid=None):\n"
        "        return nn.Dense(3)(images.reshape(len(images), -1) / 255.0)\n",
        r"expected float32 logits of shape \(2, 10\) for 2 images and 10 classes, got float32 \(2, 3\)",
    ),
    "raises": (
        "class Net(nn.Module):\n    num_classes: int\n    def __call__(self, images, *, train, valid=None):\n"
        "        raise RuntimeError('not today')\n",
        "which raised RuntimeError: not today",
    ),
    "without_classes": (
        "class Net(nn.Module):\n    def __call__(self, x, *, train, valid=None):\n        return x\n",
        "which raised TypeError: .*num_classes",
    ),
    "no_module": ("def Net(num_classes):\n    return 1\n", "expected a Linen module, got .*function"),
    "no_such_attribute": ("class Other:\n    pass\n", "expected an attribute of .*it defines: Other"),
    "broken": ("import nothing_of_that_name\n", "raised ModuleNotFoundError: .* in line 2 of broken.py"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_own_network_that_cannot_be_used(
    name: str, vary: Vary, small: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, message = NETWORKS[name]
    (tmp_path / f"{name}.py").write_text(f"import flax.linen as nn\n{source}")
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = tree_with(vary(), {"name": f"{name}:Net"})
    with pytest.raises(ConfigError, match=message) as caught:
        train.program(experiment, small)
    assert str(caught.value).startswith("config.model.name: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.name=nowhere.to:Net"], "no nowhere.to in the working directory"),
        (["--config.model.name=small"], "expected one of 'conv_net', or 'module:attribute'"),
        (["--config.train.loss=hinge"], "expected one of 'cross_entropy', 'squared_error', or"),
        (["--config.optimizer.name=lions"], "expected one of 'adam', 'adamw', 'lion', 'sgd', or"),
        (["--config.eval.metrics=loss,accuracy,f1"], "expected different names of 'loss', 'accuracy'"),
        (
            ["--config.model.name=experiments.own_network:ResNet", "--config.model.channels=8,"],
            "no such config key; .*model.width",
        ),
    ],
)
def test_unknown_name_is_answered_before_jax(
    flags: list[str], message: str, tmp_path: Path, command_line: CommandLine
) -> None:
    (tmp_path / "jax.py").write_text("raise AssertionError('JAX was imported')\n")
    done = command_line("main", f"--config={ROOT}/experiments/base.py", *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert re.search(message, done.stderr)


def test_field_that_a_network_does_not_have(vary: Vary, small: data.Dataset) -> None:
    with pytest.raises(ConfigError, match=r"config\.model\.depth: expected a field of .*width, blocks"):
        train.program(tree_with(vary(), RESNET | {"depth": 3}), small)
