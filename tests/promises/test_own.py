"""What is one's own: networks with batch norm and dropout, optimizers, schedules, losses, metrics."""

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, model, train
from mmids_cnn.console import experiment_file
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.populations import population
from mmids_cnn.runs import trained
from mmids_cnn.storage import checkpoints
from tests.support import idx_files, sweeping
from tests.support.everything import EVERYTHING, FLAGS
from tests.support.suite import ROOT, BatchOf, CommandLine, Vary, digests, step

RESNET = {"name": "experiments.own_network:ResNet", "width": 4, "blocks": 0, "dropout": 0.25}
MINE = (ROOT / "experiments" / "own_parts.py").read_text()  # copied beside an experiment file
EXPERIMENT = """
from experiments import base


def get_config():
    config = base.get_config()
    config.num_epochs = 2
    config.batch_size = 32
    config.model = {{"name": "mine:Mlp", "width": 16}}
    config.dataset.name = "few"
    config.dataset.archives = {archives!r}
    config.optimizer.name = "mine:nesterov"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "mine:halves"
    config.train.loss = "mine:focal"
    config.augment.names = ("affine", "mine:noise")
    config.eval.metrics = ("loss", "accuracy")
    return config
"""


@pytest.fixture(scope="module")
def own(vary: Vary) -> config_lib.Experiment:
    """A small residual network with batch norm and dropout."""
    return tree_with(vary(**EVERYTHING), RESNET)


def tree_with(experiment: config_lib.Experiment, settings: dict[str, Any]) -> config_lib.Experiment:
    return config_lib.resolve(config_lib.to_dict(experiment) | {"model": settings})


def mean_of_first_layer(state: train.TrainState, images: jax.Array) -> np.ndarray:
    """What the first batch norm sees of some images, its mean by channel: in NumPy's float64."""
    kernel = np.asarray(state.params["ConvNorm_0"]["kernel"], np.float64)[:, :, 0]
    x = np.pad(np.asarray(images, np.float64)[..., 0] / 255, ((0, 0), (1, 1), (1, 1)))
    shifted = [x[:, i : i + 28, j : j + 28, None] * kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(shifted, axis=0).mean((0, 1, 2))


def test_statistics_are_those_of_the_whole_batch_without_its_padding(
    vary: Vary, small: data.Dataset, batch_of: BatchOf
) -> None:
    state = train.init_state(tree_with(vary(), RESNET), small)
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


OVERFLOWS = """
import flax.linen as nn
import jax.numpy as jnp


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train=False, valid=None):
        seen = self.variable("seen", "scale", jnp.ones, ())
        if train:
            seen.value = seen.value * 1e30
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255.0)
"""


def test_other_variables_that_are_not_finite_stop_training_too(
    vary: Vary, small: data.Dataset, batch_of: BatchOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "overflows.py").write_text(OVERFLOWS)
    monkeypatch.syspath_prepend(str(tmp_path))
    first, _ = step(
        train.init_state(tree_with(vary(), {"name": "overflows:Net"}), small), batch_of(range(8), 8)
    )
    assert (first.step, first.nonfinite) == (1, 0)
    second, sums = step(first, batch_of(range(8), 8))
    assert np.isfinite(sums.totals["loss"]) and (second.step, second.nonfinite) == (1, 1)
    assert digests(second.variables) == digests(first.variables)


COUNTS = """
import flax.linen as nn
import jax.numpy as jnp


class Net(nn.Module):
    num_classes: int
    width: int = WIDTH

    @nn.compact
    def __call__(self, images, *, train=False, valid=None):
        seen = self.variable("seen", "pair", lambda: (jnp.zeros((), jnp.int32), jnp.ones(3)))
        if train:
            seen.value = (seen.value[0] + len(images), seen.value[1])
        x = nn.Dense(self.width)(images.reshape(len(images), -1) / 255.0)
        return nn.Dense(self.num_classes)(x)
"""


def test_collection_that_holds_a_tuple(
    vary: Vary, small: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counts.py").write_text(COUNTS.replace("WIDTH", "4"))
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = tree_with(vary(), {"name": "counts:Net"})
    state = train.init_state(experiment, small)
    meta = {"config": config_lib.to_dict(experiment), "data": small.fingerprint}
    with contextlib.closing(checkpoints.Saver(tmp_path / "checkpoints")) as saver:
        saver.save(0, train.to_saved(state), meta, 0.0)
    found = trained.load(tmp_path, experiment, small, "newest", pytest.fail)
    assert digests(found.variables) == digests(state.variables)
    assert jax.tree.map(lambda one, other: one.shape == other.shape, found.variables, state.variables)
    (tmp_path / "counts.py").write_text(COUNTS.replace("WIDTH", "16"))
    monkeypatch.delitem(sys.modules, "counts")
    model._make.cache_clear()
    notes: list[str] = []
    with pytest.raises(RunError, match="expected variables of the network that was trained"):
        trained.load(tmp_path, experiment, small, "newest", notes.append)


def test_own_network_from_the_command_line(few: Path, tmp_path: Path, command_line: CommandLine) -> None:
    command = (
        *(f"--config={ROOT}/experiments/base.py", "--config.model.name=experiments.own_network:ResNet"),
        *("--config.model.width=4", "--config.model.blocks=0", "--config.model.dropout=0.25"),
        *("--config.dataset.name=few", f"--config.dataset.archives={few}", "--config.batch_size=48"),
        *FLAGS,
    )
    results = []
    for name, devices, epochs in (("one", "1", "2"), ("four", "4", "1"), ("four", "1", "2")):
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
    assert results[0]["fingerprint"] == results[2]["fingerprint"]  # one go on one device; 4 devices, then one
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
        *("main", "--config=somewhere/try_it.py", "--config.eval.metrics=loss,accuracy,brier,mine:in_two"),
        *("--config.optimizer.schedule=constant", "--workdir=run"),
    )
    done = command_line(*constant, "--config.num_epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["test/accuracy"] < result["test/in_two"] <= 1
    assert 0 < result["test/brier"] < 2
    assert "test/in_two" in done.stdout and f"{100 * result['test/in_two']:.2f} %" in done.stdout
    done = command_line("evaluate", "--workdir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"in_two {100 * result['test/in_two']:.2f} %" in done.stdout
    (place / "mine.py").write_text(MINE + "\n# changed\n")
    done = command_line("evaluate", "--workdir=run")
    assert done.returncode == 0 and "note: the source of mine:nesterov was changed since" in done.stderr
    done = command_line(*constant, "--config.num_epochs=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "; the source of mine:nesterov was " in done.stdout
    assert "its bits may differ from an unbroken run's" in done.stdout
    done = command_line("main", "--config=somewhere/try_it.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_sweep_of_own_parts_by_an_own_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: CommandLine
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "swept.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path / "parts"))
    archives, workdir = sweeping.write_archives(tmp_path / "digits"), tmp_path / "runs" / "it"
    leaves: dict[str, Any] = {
        "eval__metrics": ("loss", "accuracy", "swept:in_two"),
        "optimizer__learning_rate": 0.05,
        "sweep__metric": "validation/in_two",
        "sweep__space__optimizer__learning_rate": "",
        "sweep__space__optimizer__name": "choice('sgd', 'swept:nesterov')",
        "sweep__seeds": 1,
        "sweep__confirm_seeds": 0,
    }
    nowhere = leaves | {"sweep__space__optimizer__name": "choice('sgd', 'nowhere:thing')"}
    with pytest.raises(ConfigError, match=r"config\.sweep\.space\.optimizer\.name: .*no nowhere in the"):
        sweeping.run(sweeping.make(archives, **nowhere), workdir)
    assert not workdir.exists()
    plan = sweeping.make(archives, **leaves)
    best = sweeping.run(plan, workdir)
    values = [one.value for one in sweeping.results(plan, workdir)]
    assert best["validation"]["mean"] == max(value for value in values if value is not None)
    assert f"validation/in_two {100 * best['validation']['mean']:.2f} %" in best["summary"]
    found = json.loads((workdir / "provenance.json").read_text())["sources"]
    assert list(found) == ["swept:in_two", "swept:nesterov"]
    assert {one["root"] for one in found.values()} == {str(tmp_path / "parts")}
    # The winner finds them from anywhere: what is missing is the data.
    done = command_line("main", f"--config={workdir}/winner.py", "--config.dataset.archives=nowhere")
    assert done.returncode == 2 and "dataset.archives: " in done.stderr
    # Trials of another source are not compared with those that are there.
    (workdir / "best.json").unlink()
    (tmp_path / "parts" / "swept.py").write_text(MINE + "\n# changed\n")
    with pytest.raises(RunError, match="expected the source of swept:in_two that its trials"):
        sweeping.run(plan, workdir)


CALL = "    @nn.compact\n    def __call__(self, images, *, train=False, valid=None):\n"
NETWORKS = {
    "wrong_shape": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        return nn.Dense(3)(images.reshape(len(images), -1) / 255.0)\n",
        r"expected float32 logits of shape \(3, 10\) for 3 images and 10 classes, got float32 \(3, 3\)",
    ),
    "wrong_when_scoring": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        x = nn.Dense(10)(images.reshape(len(images), -1) / 255.0)\n"
        "        return x if train else x[0]\n",
        r"got float32 \(10,\) from 'wrong_when_scoring:Net' with train=False",
    ),
    "slash": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        return nn.Dense(10, name='head/1')(images.reshape(len(images), -1) / 255.0)\n",
        r"expected names of layers without '/', got \('params', 'head/1', 'bias'\) in 'slash:Net'",
    ),
    "grows": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        self.sow('seen', 'x', images.sum())\n"
        "        return nn.Dense(10)(images.reshape(len(images), -1) / 255.0)\n",
        "expected collections that keep their shape, got 'grows:Net', which changes that of seen in a step",
    ),
    "even": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        assert len(images) % 2 == 0, 'odd'\n"
        "        return nn.Dense(10)(images.reshape(len(images), -1) / 255.0)\n",
        "which raised AssertionError: odd in line",
    ),
    "exits": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}        raise SystemExit(0)\n",
        "which raised SystemExit: 0 in line",
    ),
    "nothing_to_train": (
        f"class Net(nn.Module):\n    num_classes: int\n{CALL}"
        "        return images.reshape(len(images), -1)[:, :10] / 255.0\n",
        "expected a network with parameters to train, got none",
    ),
    "raises": (
        "class Net(nn.Module):\n    num_classes: int\n    def __call__(self, images, *, train, valid=None):\n"
        "        raise RuntimeError('not today')\n",
        "which raised RuntimeError: not today in line 5 of raises.py",
    ),
    "without_classes": (
        "class Net(nn.Module):\n    def __call__(self, x, *, train, valid=None):\n        return x\n",
        "which raised TypeError: .*num_classes",
    ),
    "no_module": ("def Net(num_classes):\n    return 1\n", "expected a Linen module, got .*function"),
    "no_such_attribute": (
        "class Other:\n    pass\nmade = 1\n",
        "expected an attribute of .*it has: Other, made",
    ),
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


WRONG = """
import jax.numpy as jnp
import optax
from mmids_cnn.metrics import Metric


def each_of_many(logits, labels, h):
    return -logits[jnp.arange(len(labels)), labels][:, None]


def mean(logits, labels, h):
    return each_of_many(logits, labels, h).mean()


def errors(logits, labels, h):
    return (logits.argmax(-1) != labels).astype(jnp.int32)


def nothing(*arguments):
    return None


def asks(logits, labels, h):
    return logits[:, 0] * h.temperature


def decides(passed):
    return 1.0 if passed < 0.5 else 0.1


def unfit(h, rate):
    return optax.multi_transform({"a": optax.sgd(rate)}, {"no_such_layer": "a"})


def grows(h, rate):
    return optax.GradientTransformation(
        lambda params: jnp.zeros(1), lambda g, s, p: (g, jnp.concatenate([s, s]))
    )


mean_metric = Metric(lambda logits, labels: logits.mean(), higher_is_better=True)
of_classes = Metric(lambda logits, labels: logits, higher_is_better=True)
"""


@pytest.mark.parametrize(
    ("leaf", "name", "message"),
    [
        ("train.loss", "each_of_many", r"expected one float for each example, got float32 \(2, 1\)"),
        ("train.loss", "mean", r"expected one float for each example, got float32 \(\) from"),
        ("train.loss", "errors", "expected one float for each example, got int32 from"),
        ("train.loss", "nothing", "expected one float for each example, got NoneType from"),
        ("train.loss", "asks", "AttributeError: .*'temperature', which has .*b1, .* in line 24 of unfit.py"),
        ("eval.metrics", "mean_metric", r"expected a metric with one value for each .*, got float32 \(\)"),
        ("eval.metrics", "of_classes", r"expected a metric with one value .*, got float32 \([12], 10\)"),
        ("optimizer.schedule", "decides", "which raised TracerBoolConversionError: .* in line 28 of"),
        ("optimizer.schedule", "nothing", "expected a factor of the learning rate, got NoneType"),
        ("optimizer.name", "nothing", "a function that returns an optax optimizer, .* is NoneType"),
        ("optimizer.name", "decides", "which raised TypeError: decides.. takes 1"),
        ("optimizer.name", "unfit", "expected an optimizer of these parameters, .* which raised "),
        ("optimizer.name", "grows", "which changes the shape or dtype of its state or of parameters"),
    ],
)
def test_own_function_that_cannot_be_used(
    leaf: str,
    name: str,
    message: str,
    vary: Vary,
    small: data.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told before anything is compiled, with the leaf."""
    (tmp_path / "unfit.py").write_text(WRONG)
    monkeypatch.syspath_prepend(str(tmp_path))
    section, _, last = leaf.partition(".")
    value = ("loss", "accuracy", f"unfit:{name}") if leaf == "eval.metrics" else f"unfit:{name}"
    with pytest.raises(ConfigError, match=message) as caught:
        train.program(vary(model={"channels": (2,)}, **{section: {last: value}}), small)
    assert str(caught.value).startswith(f"config.{leaf}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.name=nowhere.to:Net"], "no nowhere.to in the working directory"),
        (["--config.model.name=small"], "expected one of 'conv_net', 'norm_net', or 'module:attribute'"),
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


def test_field_that_the_file_leaves_out_has_a_flag_all_the_same() -> None:
    config = ConfigDict({"model": {"name": "experiments.own_network:ResNet", "blocks": 1}})
    experiment_file.use_network(config, ["--config.seed=1", "--config.model.blocks=3"])
    assert config.model.to_dict() == {"name": "experiments.own_network:ResNet", "blocks": 1}
    experiment_file.use_network(config, ["--config.model.blocks=3", "--config.model.width=4"])
    assert config.model.to_dict() == {"name": "experiments.own_network:ResNet", "blocks": 1, "width": 16}


def test_field_that_the_file_leaves_out_can_be_swept() -> None:
    config = ConfigDict(
        {"model": {"name": "experiments.own_network:ResNet"}, "sweep": {"space": {"model": {"blocks": ""}}}}
    )
    experiment_file.use_network(config, ["--config.sweep.space.model.width=choice(4, 8)"])
    assert config.sweep.space.model.to_dict() == {"blocks": "", "width": ""}
    assert config.model.to_dict() == {"name": "experiments.own_network:ResNet"}


def test_field_that_a_network_does_not_have(vary: Vary, small: data.Dataset) -> None:
    with pytest.raises(ConfigError, match=r"config\.model\.depth: expected a field of .*width, blocks"):
        train.program(tree_with(vary(), RESNET | {"depth": 3}), small)
