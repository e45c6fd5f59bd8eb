"""What a run shows: what is about to be trained, how far it is, and how well it does."""

from collections.abc import Mapping
from pathlib import Path

from mmids_cnn import config as config_lib
from mmids_cnn import data, loop, metrics, model, train
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.devices import device, hosts
from mmids_cnn.runs.clock import Clock


def introduce(
    experiment: config_lib.Experiment, dataset: data.Dataset, workdir: Path, terminal: Terminal
) -> None:
    """Shows what is about to be trained, on what, with what.

    Raises:
      ConfigError: the network does not fit images or memory, or something of one's own cannot be used.
      DeviceError: there is no device of the platform asked for.
    """
    terminal.close()
    network = train.make_network(experiment, dataset)
    found = device.found()
    needed = train.require_memory(experiment, dataset)
    together = f"; {hosts.count()} processes train together" if hosts.count() > 1 else ""
    terminal.note(device.describe(found) + together)
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    height, width, channels = dataset.image_shape
    terminal.note(
        f"data: {dataset.name}, {sizes}, {height}x{width}x{channels}, {dataset.num_classes} classes, "
        f"fingerprint {dataset.fingerprint[:16]}"
    )
    terminal.note(device.describe_memory(needed))
    rows = model.table(network, dataset.image_shape)
    total = sum(row.parameters for row in rows)
    shown = [(row.name, "x".join(map(str, row.output_shape)), f"{row.parameters:,}") for row in rows]
    terminal.table("", ("layer", "output", "parameters"), [*shown, ("total", "", f"{total:,}")])
    terminal.note(f"workdir: {workdir}, seed {experiment.seed}")
    for sentence in train.notes(experiment, dataset):
        terminal.say(f"note: {sentence}")


class Progress:
    """A bar or lines on how far a run is, and a table of its metrics."""

    def __init__(
        self, experiment: config_lib.Experiment, dataset: data.Dataset, terminal: Terminal, clock: Clock
    ) -> None:
        self._num_epochs, self._batch_size = experiment.num_epochs, experiment.batch_size
        self._examples = len(dataset.splits["train"].labels)
        self._per_epoch = train.steps_per_epoch(self._examples, self._batch_size)
        self._terminal, self._clock = terminal, clock
        self._metrics = metrics.by_label(experiment.eval.metrics)
        self._last: tuple[int, float] | None = None  # images and seconds of training at the point before

    def row(self, row: Mapping[str, float | int | None]) -> None:
        """Shows a row of metrics."""
        self._terminal.row(row, self._show)

    def point(self, point: loop.Point) -> None:
        """Shows how far training is; the rate is that of the piece just trained."""
        images, spent = self._last or (0, 0.0)
        if self._last and not images and point.images:
            self._terminal.note(
                f"first step after {self._clock.elapsed():.1f} s, compiling took "
                f"{point.seconds.compile:.1f} s"
            )
        spent = point.seconds.train - spent
        rate = (point.images - images) / spent if spent else 0
        self._last = point.images, point.seconds.train
        epochs, inside = divmod(point.step, self._per_epoch)
        what = f"epoch {min(epochs + 1, self._num_epochs)}/{self._num_epochs}"
        done = epochs * self._examples + inside * self._batch_size
        self._terminal.progress(what, done, self._num_epochs * self._examples, rate, "images")

    def _show(self, column: str, value: float | None) -> str:
        return self._metrics[column.rpartition("/")[2]].show(value)
