"""This project's own training under the protocol of its peers; `--population N` trains N models at once."""

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path

from mmids_cnn.devices import cores

cores.as_devices()  # before JAX is imported, as the command line does

import jax
from ml_collections import ConfigDict

from mmids_cnn import config, feed, score, train
from mmids_cnn import data as data_lib
from protocol import Data, serve

sys.path.append(str(Path(__file__).parents[3]))  # the checkout, for `experiments`

from experiments import base

TUPLES = ("channels", "depths")


class OurRunner:
    """The reference recipe on the arrays given; images uint8 [N, 28, 28, 1]."""

    def __init__(self, args: Namespace, data: Data) -> None:
        settings = base.get_config()
        settings.batch_size, settings.model.channels = args.batch_size, tuple(args.channels)
        settings.seed = args.seed
        if args.model:
            settings.model = ConfigDict(
                args.model | {k: tuple(x) for k, x in args.model.items() if k in TUPLES}
            )
        settings.augment.update(args.augment)
        experiment = config.resolve(settings)
        training = data_lib.Split(data.train_images, data.train_labels)
        test = data_lib.Split(data.test_images, data.test_labels)
        dataset = data_lib.Dataset("mnist", {"train": training, "test": test}, 10, "")
        if args.population == 1:
            self.state = train.init_state(experiment, dataset)
        else:
            seeds = range(args.seed, args.seed + args.population)
            members = [dataclasses.replace(experiment, seed=seed) for seed in seeds]
            self.state = train.init_population(members, dataset)
        self.feed, self.compiled = feed.make(experiment, training), False
        held_out = {"test": test}
        batch = experiment.eval.batch_size
        self.scorer = score.Scorer(
            self.state.program.network, experiment.eval.metrics, held_out, batch, self.state.population
        )
        self.epochs = 0

    def step(self) -> None:
        """See `protocol.Runner`; the first one compiles, as that of the peers does."""
        if not self.compiled:
            self.feed.compile(self.state)
            self.compiled = True
        self.state = jax.block_until_ready(self.feed.advance(self.state, self.epochs, 0, 1))

    def prepare(self) -> None:
        """See `protocol.Runner`."""
        self.evaluate()

    def epoch(self) -> None:
        """See `protocol.Runner`."""
        self.epochs += 1
        steps = self.feed.steps_per_epoch
        self.state = jax.block_until_ready(self.feed.advance(self.state, self.epochs, 0, steps))

    def evaluate(self) -> float:
        """See `protocol.Runner`."""
        scores = self.scorer(self.state.variables)
        assert scores is not None
        return float((scores["test"].totals["accuracy"] / scores["test"].count).mean())


if __name__ == "__main__":
    serve(OurRunner, ["jax", "flax", "optax", "numpy"])
