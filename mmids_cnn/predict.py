"""Classifies pictures.

    python -m mmids_cnn.predict --workdir=DIR IMAGE... [--many] [--show=seen.png] [--json] [--test_index=0]

IMAGE is any picture file: any size, colour or grey, dark on light or light on dark; a photograph of a digit
on paper, too, in uneven light.

With `--json` an object a line: `picture`, with `--many` the `box` of a digit (left, top, right, bottom), or
`test_index` and its `label`; `class`, its `name`, `probabilities` of all classes, `workdir`, `step`.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.datasets import classes
from mmids_cnn.deploy import pictures
from mmids_cnn.errors import ConfigError, DataError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files

Named = tuple[str, dict[str, Any]]
"""What an image is called in words, and by which facts an object tells of it."""


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", "runs/base", "Folder of the run whose parameters are used.")
    flags.DEFINE_multi_integer(
        "test_index", [], "Position in the test split, from 0; may be given several times."
    )
    flags.DEFINE_bool("many", False, "Read all digits of a page, from left to right, each with its box.")
    flags.DEFINE_string(
        "show", None, "PNG file to be written: what the network sees, enlarged; with --many the pages, too."
    )
    flags.DEFINE_bool("json", False, "Print an object a line, one for each image.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")


def main() -> int:
    """Restores the parameters and prints, for each picture, its class and all probabilities.

    A picture that cannot be used takes no answer from the others; it is named after them.
    """
    paths = command.arguments()
    if not paths and not flags.FLAGS.test_index:
        raise ConfigError("expected picture files or --test_index=0, got neither; name at least one")
    show = flags.FLAGS.show and _require_new_png(flags.FLAGS.show, paths)

    workdir = Path(flags.FLAGS.workdir)
    experiment = run_folder.experiment(workdir)
    run_folder.require_checkpoint(workdir, flags.FLAGS.checkpoint)
    experiment_file.add_roots(run_folder.source_roots(workdir))
    terminal = Terminal()
    dataset = data.load(experiment.dataset, command.report if flags.FLAGS.json else terminal.report)
    terminal.close()
    if flags.FLAGS.many and dataset.image_shape[-1] != 1:
        found = f"one for {dataset.image_shape[-1]}"
        raise ConfigError(f"--many: expected a network for 1 channel, found {found}; leave it out")
    test = dataset.splits["test"]
    named, images, pages, refused = list[Named](), [], [], list[DataError]()
    for index in flags.FLAGS.test_index:
        if not 0 <= index < len(test.labels):
            raise ConfigError(f"--test_index: expected 0 to {len(test.labels) - 1}, got {index}")
        label = int(test.labels[index])
        title = f"test image {index} (label {classes.title(dataset.class_names, label)})"
        named.append((title, {"test_index": index, "label": label}))
        images.append(test.images[index])
    for path in paths:
        try:
            read = list(_read(path, dataset.image_shape))
            named += [one for one, _ in read]
            images += [image for _, image in read]
            if show and flags.FLAGS.many:
                pages.append(pictures.boxed(Path(path), [where["box"] for (_, where), _ in read]))
        except DataError as error:
            refused.append(error)
    if images:
        if show:
            with files.faults("--show"):
                files.write_bytes(show, pictures.sheet(images, pages))
        _classify(workdir, experiment, dataset, named, images)
    return max([command.complain(str(error), error.exit_status) for error in refused], default=0)


def _require_new_png(name: str, paths: Sequence[str]) -> Path:
    """The path of a PNG file that can be written and is none of the pictures; raises `ConfigError`."""
    path = Path(name)
    if path.suffix.lower() != ".png" or not files.writable(path.parent):
        raise ConfigError(f"--show: expected a name.png in a folder that can be written, got {name!r}")
    if os.path.realpath(path) in map(os.path.realpath, paths):
        raise ConfigError(f"--show: expected a file of its own, got the picture {name}; name another")
    return path


def _read(path: str, shape: tuple[int, ...]) -> Iterator[tuple[Named, np.ndarray]]:
    """What to call each image of a picture, and the image."""
    if not flags.FLAGS.many:
        yield (path, {"picture": path}), pictures.load(Path(path), shape, command.warn)
        return
    for box, image in pictures.load_many(Path(path), shape):
        left, top, right, bottom = map(int, box)
        where = {"picture": path, "box": [left, top, right, bottom]}
        yield (f"{path} {left},{top}-{right},{bottom}", where), image


def _classify(
    workdir: Path,
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    named: Sequence[Named],
    images: Sequence[np.ndarray],
) -> None:
    """Prints the answers for some images."""
    import jax  # once the input is known to be right

    from mmids_cnn import model
    from mmids_cnn.runs import trained

    terminal = Terminal()
    found = trained.load(workdir, experiment, dataset, flags.FLAGS.checkpoint, command.warn)
    predict = jax.jit(model.predict_proba, static_argnums=0)
    probabilities = np.asarray(predict(found.network, found.variables, np.stack(images)))
    for (title, facts), row in zip(named, probabilities, strict=True):
        if flags.FLAGS.json:
            label = int(row.argmax())
            said = {"class": label, "name": dataset.class_names[label], "probabilities": row.tolist()}
            terminal.say(files.to_json({**facts, **said, "workdir": str(workdir), "step": found.step}))
            continue
        terminal.say(f"{title}: class {classes.title(dataset.class_names, row.argmax())}")
        terminal.say(
            "  " + "  ".join(f"{label}: {p:.4f}" for label, p in zip(dataset.class_names, row, strict=True))
        )
    if not flags.FLAGS.json:
        terminal.say(f"{found.what} after step {found.step:,} of {workdir}")
    terminal.require_written()


if __name__ == "__main__":
    command.run(main, define_flags, __doc__, takes_arguments=True)
