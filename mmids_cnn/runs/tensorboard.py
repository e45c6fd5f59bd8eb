"""What TensorBoard shows of a run, in `RUN/tensorboard`: curves, the configuration, images of errors.

`metrics.jsonl` is the record. The log is written anew from it whenever a process begins with the run, so that
what an earlier one had shown beyond the checkpoint that is gone on from is not shown twice.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmids_cnn import config as config_lib
from mmids_cnn import data, score
from mmids_cnn.pages import statistics
from mmids_cnn.settings import schema
from mmids_cnn.train import TrainState

FOLDER = "tensorboard"
_MOST_ERRORS = 40  # images of errors, those that the network is surest of


class Log:
    """The log of one process.

    Args:
      workdir: the run folder.
      experiment: its configuration, shown as a table.
      rows: the rows of metrics so far.
    """

    def __init__(
        self, workdir: Path, experiment: config_lib.Experiment, rows: Iterable[Mapping[str, Any]]
    ) -> None:
        from tensorboardX import SummaryWriter  # an extra, and a third of a second

        shutil.rmtree(workdir / FOLDER, ignore_errors=True)
        self._writer = SummaryWriter(str(workdir / FOLDER), flush_secs=10)
        leaves = schema.flatten(experiment).items()
        lines = ["| leaf | value |", "|---|---|", *(f"| `{name}` | `{value}` |" for name, value in leaves)]
        self._writer.add_text("configuration", "\n".join(lines), 0)
        for row in rows:
            self.row(row)

    def row(self, row: Mapping[str, Any]) -> None:
        """Adds the metrics of a row, `<split>/<metric>`, at its step."""
        for name, value in row.items():
            if "/" in name and not name.endswith("/count") and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def errors(self, state: TrainState, dataset: data.Dataset, batch_size: int) -> None:
        """Adds the test images that a network gets wrong, and what it takes them for."""
        split = dataset.splits["test"]
        logits = score.logits(state.program.network, state.scored, split.images, batch_size)
        said, labels = logits.argmax(-1), np.asarray(split.labels)
        wrong = statistics.errors(statistics.log_probabilities(logits), labels)[:_MOST_ERRORS]
        if not len(wrong):
            return
        step, names = int(state.step), dataset.class_names
        self._writer.add_images("errors", np.asarray(split.images)[wrong], step, dataformats="NHWC")
        told = (f"{index}: {names[labels[index]]} → {names[said[index]]}" for index in wrong)
        self._writer.add_text("errors", "  \n".join(told), step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
