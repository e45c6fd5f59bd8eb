"""The report of a run: one page with how good it is, what it takes for what, how sure it is, and of what."""

import html
import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics, score, train
from mmids_cnn.datasets import classes
from mmids_cnn.pages import page as pages
from mmids_cnn.pages import png, statistics
from mmids_cnn.runs import figures, inside, provenance, trained
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs.trained import Trained
from mmids_cnn.storage import files

_GALLERY = 200  # errors that are shown
_MATRIX = 20  # classes, up to which counts are in cells
_PAIRS = 20  # of classes taken for one another, where there are more
_SIDE, _MAPS = 64, 64  # pixels of a picture, and maps of a layer, that are shown

_PERCENT = metrics.metric("accuracy").show
_PLAIN = metrics.metric("loss").show


def write(workdir: Path, dataset: data.Dataset, warn: Callable[[str], None]) -> Path:
    """Writes the page of a run, finished or not, into its folder; returns its path.

    Args:
      workdir: the run folder.
      dataset: the data that are at hand.
      warn: told of what `trained.load` warns of; the page says it too.

    Raises:
      RunError: there is no run, or no checkpoint of it that is whole and of these data.
      ConfigError: see `trained.load`.
      FaultError: the page cannot be written.
    """
    notes: list[str] = []
    experiment = run_folder.experiment(workdir)
    network = trained.load(workdir, experiment, dataset, "newest", notes.append)
    for note in notes:
        warn(note)
    path = workdir / run_folder.REPORT
    content = page(workdir, experiment, dataset, network, notes)
    with files.faults(f"writing {path}"):
        files.write_text(path, content)
    return path


def page(
    workdir: Path,
    experiment: config_lib.Experiment,
    dataset: data.Dataset,
    network: Trained,
    notes: Sequence[str] = (),
) -> str:
    """The page as HTML; the same for the same run.

    Args:
      workdir: the run folder.
      experiment: its configuration.
      dataset: its data.
      network: what it has trained so far.
      notes: what is to be said ahead of all.
    """
    test, batch_size = dataset.splits["test"], experiment.eval.batch_size

    def logits(split: data.Split) -> np.ndarray:
        return score.logits(network.network, network.variables, split.images, batch_size)

    held_out = dataset.splits.get("validation")
    labels, found = np.asarray(test.labels), logits(test)
    divisor = statistics.temperature(logits(held_out), np.asarray(held_out.labels)) if held_out else None
    counts = metrics.confusion(labels, found.argmax(-1), dataset.num_classes)
    sections = {
        "Learning curves": _curves(network.rows, dataset),
        "Confusion": _confusion(counts, dataset.class_names),
        "Errors": _gallery(test, found, dataset.class_names),
        "Calibration": _calibration(found, labels, held_out, divisor),
        "Classes": _classes(counts, dataset.class_names),
        "Inside the network": _inside(network, test, found, dataset.class_names),
        "Where it comes from": _provenance(workdir, experiment, dataset, network),
    }
    said = "".join(f"<p>Note: {html.escape(note)}</p>\n" for note in notes)
    lead = _state(workdir, experiment, dataset, network)
    title = f"Run {workdir.absolute().name}: {dataset.name}"
    return pages.page(title, lead, f"{said}{_facts(found, labels)}{pages.sections(sections)}")


def _state(workdir: Path, experiment: config_lib.Experiment, dataset: data.Dataset, network: Trained) -> str:
    """How far the run is, and which of its weights are shown."""
    per_epoch = train.steps_per_epoch(len(dataset.splits["train"].labels), experiment.batch_size)
    epochs, result = network.step / per_epoch, run_folder.result(workdir)
    which = "a moving average of the weights" if network.what.startswith("averaged") else "the last weights"
    at = f"after epoch {epochs:.4g} of {experiment.num_epochs} (step {network.step:,}), by {which}"
    if result and result["step"] == network.step:
        early = ", where training was stopped early" if result.get("stopped") else ""
        return f"Finished {at}{early}."
    return f"Not finished: this is the newest whole checkpoint, {at}."


def _facts(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> str:
    right, logs = logits.argmax(-1) == labels, statistics.log_probabilities(logits)
    hits, n = int(right.sum()), len(labels)
    low, high = statistics.wilson(hits, n)
    gap = statistics.calibration_error(statistics.equal_width(np.exp(logs.max(-1)), right))
    facts = {
        f"test accuracy: {hits:,} of {n:,} images; 95 % interval (Wilson) "
        f"{100 * low:.2f} to {_PERCENT(high)}": _PERCENT(hits / n),
        f"of {n:,} test images wrong": f"{n - hits:,}",
        f"log loss on {n:,} test images, nats": _PLAIN(statistics.log_loss(logs, labels)),
        f"calibration error on {n:,} test images": _PERCENT(gap),
    }
    return pages.facts(facts)


def _curves(rows: Sequence[Mapping[str, Any]], dataset: data.Dataset) -> str:
    if not rows:
        return "<p>The run has not been scored yet.</p>\n"

    def ends(name: str, show: Callable[[float], str]) -> str:
        """The first and the last value of each split, for whoever does not see the picture."""
        said = []
        for split in dataset.splits:
            there = [row[f"{split}/{name}"] for row in rows if row.get(f"{split}/{name}") is not None]
            said += [f"{split} from {show(there[0])} to {show(there[-1])}"] if there else []
        return f"{name} by epoch: {', '.join(said)}"

    caption = (
        f"Images: {_sizes(dataset)}. Epoch 0 is the untrained network; train is the mean over each "
        "epoch as it went."
    )
    return _pair(
        pages.figure(figures.loss(rows), ends("loss", _PLAIN), f"Loss (cross-entropy). {caption}"),
        pages.figure(
            figures.error(rows),
            ends("accuracy", _PERCENT),
            f"Accuracy, by the logarithm of the error, which is at the right. {caption}",
        ),
    )


def _sizes(dataset: data.Dataset) -> str:
    return provenance.sizes({name: len(split.labels) for name, split in dataset.splits.items()})


def _pair(*parts: str) -> str:
    return f"<div class=pair>{''.join(parts)}</div>\n"


def _confusion(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> str:
    n, wrong = int(counts.sum()), int(counts.sum() - np.trace(counts))
    lead = f"<p>{n:,} test images, {wrong:,} of them wrong: true classes down, what is said across. "
    if len(names) > _MATRIX:
        return f"{lead}Only what is wrong has a colour.</p>\n{_map(counts, names, wrong)}"
    most = max([times for *_, times in statistics.confused(counts)], default=1)
    each = statistics.by_class(counts)
    heads = "".join(f"<th scope=col class=n title={_quoted(name)}>{i}" for i, name in enumerate(names))
    body = ""
    for true, row in enumerate(counts):
        cells = "".join(
            f"<td class=right>{x:,}"
            if true == said
            else f"<td style=--share:{0.75 * math.sqrt(x / most):.3f}>{x:,}"
            if x
            else "<td>"
            for said, x in enumerate(row)
        )
        name = html.escape(classes.title(names, true))
        body += f"<tr><th scope=row>{name}{cells}<td class=edge>{_share(each[true].recall)}\n"
    precision = "".join(f"<td class=edge>{_share(one.precision)}" for one in each)
    return (
        f"{lead}The deeper the colour, the more; what is right has a frame instead.</p>\n"
        f"<div class=wide tabindex=0><table class=matrix><tr><th>true ↓, said →{heads}<th class=n>recall\n"
        f"{body}<tr><th scope=row>precision{precision}<td class=edge></table></div>\n"
    )


def _map(counts: Int[np.ndarray, "classes classes"], names: Sequence[str], wrong: int) -> str:
    pairs = statistics.confused(counts)
    alt = "map of the counts of wrong answers; the table has the most frequent"
    rows = [
        (classes.title(names, true), classes.title(names, said), f"{times:,}", f"{counts[true].sum():,}")
        for true, said, times in pairs[:_PAIRS]
    ]
    caption = (
        f"{wrong:,} images in {len(pairs):,} kinds of confusion; the table has the {len(rows)} most frequent."
    )
    table = pages.table(("true", "said", "images", "of"), rows, texts=2)
    return _pair(pages.figure(figures.confusion(counts), alt, caption), table)


def _gallery(split: data.Split, logits: Float[np.ndarray, "n classes"], names: Sequence[str]) -> str:
    labels, said, logs = np.asarray(split.labels), logits.argmax(-1), statistics.log_probabilities(logits)
    sure, wrong = np.exp(logs.max(-1)), statistics.errors(logs, labels)
    if not len(wrong):
        return f"<p>None: all {len(labels):,} test images are right.</p>\n"
    cells = ""
    for i in wrong[:_GALLERY]:
        true, found = names[labels[i]], names[said[i]]
        alt = html.escape(f"test image {i}, {true}, taken for {found}")
        source = png.source(_smaller(split.images[i], 0))
        answer = html.escape(f"{true} → {found}, {sure[i]:.3f}")
        cells += (
            f'<figure><img alt="{alt}" src="{source}"><figcaption>{answer}<br>#{i}</figcaption></figure>\n'
        )
    capped = f" Shown are the {_GALLERY} that it was most sure of." if len(wrong) > _GALLERY else ""
    step = _step(split.images.shape[1:3])
    thinned = f" Of their pixels each {step}th is shown." if step > 1 else ""
    return (
        f"<p>{len(wrong):,} of {len(labels):,} test images, the surest first: what it is → what was said, "
        "its probability; # is the place in the split, for <code>predict --test_index</code>."
        f"{capped}{thinned}</p>\n"
        f"<div class=gallery>{cells}</div>\n"
    )


def _step(sides: Sequence[int]) -> int:
    return math.ceil(max(sides) / _SIDE)


def _smaller(array: np.ndarray, first: int) -> np.ndarray:
    """An image or maps without rows and columns, so as to be small enough; `first` is the axis of rows."""
    step = _step(array.shape[first : first + 2])
    return array[(slice(None),) * first + (slice(None, None, step),) * 2]


def _calibration(
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    held_out: data.Split | None,
    divisor: float | None,
) -> str:
    n, right, exact = len(labels), logits.argmax(-1) == labels, logits.astype(np.float64)

    def bins(by: float) -> tuple[list[statistics.Bin], list[statistics.Bin]]:
        sure = np.exp(statistics.log_probabilities(exact / by).max(-1))
        return statistics.equal_width(sure, right), statistics.equal_mass(sure, right)

    def row(name: str, by: float) -> tuple[str, ...]:
        logs = statistics.log_probabilities(exact / by)
        gaps = (_PERCENT(statistics.calibration_error(one)) for one in bins(by))
        return name, _PLAIN(statistics.log_loss(logs, labels)), _PLAIN(statistics.brier(logs, labels)), *gaps

    rows, fitted = [row("as trained", 1.0)], "The run held no validation images out to fit a temperature to."
    if held_out and divisor:
        rows.append(row(f"divided by {divisor:.3f}", divisor))
        fitted = (
            "The temperature, which logits are divided by, is fitted to the log loss on "
            f"{len(held_out.labels):,} validation images."
        )
    wide, even = bins(1.0)
    heads = ("logits", "log loss, nats", "Brier, 0 to 2", "error, equal width", "error, equal mass")
    widths = f"15 bins of equal width, {n:,} test images, as trained. Below the dashes it is too sure."
    masses = (
        f"15 bins of equal mass, about {n / 15:,.0f} of {n:,} test images each, as trained. Above the "
        "dashes it is too sure."
    )
    return (
        _pair(
            pages.figure(figures.reliability(wide), f"accuracy by confidence: error {rows[0][3]}", widths),
            pages.figure(figures.errors_promised(even), f"errors by confidence: error {rows[0][4]}", masses),
        )
        + pages.table(heads, rows)
        + f"<p>{n:,} test images. The error of calibration is the mean distance of accuracy from confidence, "
        f"over 15 bins. {fitted}</p>\n"
    )


def _classes(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> str:
    rows = []
    for label, one in enumerate(statistics.by_class(counts)):
        taken = f"{classes.title(names, one.taken_for)} ({one.times:,})" if one.taken_for is not None else "–"
        shares = map(_share, (one.recall, one.precision, one.f1))
        rows.append((classes.title(names, label), taken, f"{one.size:,}", *shares))
    heads = ("class", "most often taken for", "test images", "recall", "precision", "F1")
    return pages.table(heads, rows, texts=2)


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _quoted(text: str) -> str:
    return f'"{html.escape(text)}"'


def _inside(
    network: Trained, split: data.Split, logits: Float[np.ndarray, "n classes"], names: Sequence[str]
) -> str:
    kernel, layers = inside.look(network, split.images[0])
    text, parts = "", []
    if kernel is None:
        text += "<p>The network has no convolution whose filters could be shown.</p>\n"
    else:
        filters, channels = kernel.shape[3], kernel.shape[2]
        how = {1: "", 3: "; colours are the weights of the three channels, mid-grey is 0"}
        more = how.get(channels, f"; the mean over {channels} channels")
        caption = f"Filters of the first convolution, {_first(filters)}{more}."
        parts.append(pages.figure(figures.filters(kernel[..., :_MAPS]), f"{filters} filters", caption))
    if not layers:
        return f"{text}{_pair(*parts)}<p>No layer puts out maps that could be shown.</p>\n"
    true, said = (classes.title(names, int(x)) for x in (split.labels[0], logits[0].argmax()))
    picture = png.source(_smaller(split.images[0], 0))
    text += (
        f'<p><img class=pixels width=112 alt="test image 0" src="{picture}"><br>Test image 0 '
        f"({html.escape(true)}, said: {html.escape(said)}), whose maps are shown below.</p>\n"
    )
    for name, maps in layers:
        size = "x".join(map(str, maps.shape[1:]))
        caption = f"{name}: maps of {size} pixels, {_first(len(maps))}."
        content = figures.activations(_smaller(maps[:_MAPS], 1))
        parts.append(pages.figure(content, f"maps of {name}", caption))
    return text + _pair(*parts)


def _first(number: int) -> str:
    return f"all {number}" if number <= _MAPS else f"the first {_MAPS} of {number}"


def _provenance(
    workdir: Path, experiment: config_lib.Experiment, dataset: data.Dataset, network: Trained
) -> str:
    known = run_folder.provenance(workdir)
    rows = pages.table(("what", "value"), list(_origins(known, dataset, network)), texts=2, wrap=True)
    command = html.escape(shlex.join(known.get("command", ["not recorded"])))
    configuration = html.escape(json.dumps(config_lib.to_dict(experiment), indent=2))
    return f"<pre class=wrap>{command}</pre>\n{rows}<h3>Configuration</h3>\n<pre>{configuration}</pre>\n"


def _origins(known: Mapping[str, Any], dataset: data.Dataset, network: Trained) -> Iterator[tuple[str, str]]:
    yield from provenance.described({**known, "dataset": provenance.facts(dataset)})
    count = sum(x.size for x in jax.tree.leaves(network.variables["params"]))
    yield "parameters", f"{count:,}, fingerprint {network.fingerprint}"
