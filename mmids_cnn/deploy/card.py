"""The model card of an export: what the record of its runs and the scores just measured say, and no more."""

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import mmids_cnn
from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics, train
from mmids_cnn.console import experiment_file
from mmids_cnn.datasets import classes
from mmids_cnn.deploy import bundle, weights
from mmids_cnn.pages import statistics
from mmids_cnn.runs import compare
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs.trained import Member

NAME = "MODEL_CARD.md"

_CONFUSIONS = 10  # how many are listed


def write(
    members: Sequence[Member],
    dataset: data.Dataset,
    scored: bundle.Scored,
    parity: bundle.Parity | None,
    contents: Mapping[str, bytes],
) -> str:
    """The card, in Markdown.

    Args:
      members: the networks.
      dataset: what they were trained and scored on.
      scored: how they do.
      parity: how the ONNX file does beside them; None where there is none.
      contents: of the files, by name.
    """
    names = ", ".join(sorted({member.experiment.model.name for member in members}))
    number = f"{len(members)} networks, the mean of their probabilities: " if len(members) > 1 else ""
    said = [
        f"# {_text(names)} on {_text(dataset.name)}",
        f"Written by `python -m mmids_cnn.export`, mmids_cnn {mmids_cnn.__version__}.",
        f"{number}{'; '.join(_state(member, dataset) for member in members)}.",
        *("## Files", _files(contents)),
        *("## Figures", _figures(members, dataset, scored, parity)),
        *("## Errors", _errors(dataset, scored.confusion)),
        *("## Data", _data(dataset)),
        *("## Recipe", _recipe(members)),
        *("## Limits", _limits(dataset)),
        *("## Licences", _licences(members, dataset)),
        *("## How to reproduce it", _again(members)),
    ]
    return "\n\n".join(said) + "\n"


def _state(member: Member, dataset: data.Dataset) -> str:
    """What a network is, and whether its training had ended."""
    experiment, folder = member.experiment, member.workdir
    if not (folder / run_folder.CONFIG).exists():  # a sweep keeps what it has confirmed, after the last step
        return _text(member.title)
    total = experiment.num_epochs * train.steps_per_epoch(
        len(dataset.splits["train"].labels), experiment.batch_size
    )
    result = run_folder.result(folder)
    if result is None:
        return f"{_text(member.title)}, **an unfinished run**, which was to take {total:,} steps"
    if result["step"] != member.trained.step:
        return f"{_text(member.title)}, a checkpoint before its end after step {result['step']:,}"
    return f"{_text(member.title)}, a finished run"


def _files(contents: Mapping[str, bytes]) -> str:
    what = {
        bundle.ONNX: "`images` (uint8, `[n, height, width, channels]`) in, `logits` and `probabilities` out",
        bundle.SAFETENSORS: weights.LAYOUT,
    }
    rows = [
        (f"`{name}`", f"{len(content):,}", f"`{hashlib.sha256(content).hexdigest()}`", what[name])
        for name, content in contents.items()
    ]
    return _table(("file", "bytes", "SHA-256", "content"), rows)


def _figures(
    members: Sequence[Member],
    dataset: data.Dataset,
    scored: bundle.Scored,
    parity: bundle.Parity | None,
) -> str:
    rows = [
        (_text(member.title), *_score(one))
        for member, one in zip(members, scored.each, strict=True)
        if len(members) > 1
    ]
    rows.append(("these weights" if len(members) == 1 else "all together", *_score(scored.together)))
    said = [
        f"Of the {scored.together['count']:,} images of the test split, measured for this card:",
        _table(("network", "accuracy", "right", "95 % interval (Wilson)", "loss, nats"), rows),
    ]
    if parity is not None:
        said.append(
            f"`{bundle.ONNX}` beside JAX, by {parity.by}, on the same images: the same class for "
            f"{parity.agreement:,} of {parity.images:,}, logits at most {parity.difference:.2g} off, where "
            f"the largest is {parity.largest:.3g}."
        )
    return "\n\n".join(said)


def _score(scores: Mapping[str, float | int]) -> tuple[str, ...]:
    count, show = int(scores["count"]), metrics.metric("accuracy").show
    right = round(scores["accuracy"] * count)
    low, high = statistics.wilson(right, count)
    loss = metrics.metric("loss").show(scores["loss"])
    return show(scores["accuracy"]), f"{right:,}", f"{100 * low:.2f} to {100 * high:.2f} %", loss


def _errors(dataset: data.Dataset, confusion: np.ndarray) -> str:
    count = confusion.sum()
    lead = f"{count - np.trace(confusion):,} of {count:,} images are taken for another class."
    rows = [
        (_class(dataset, label), _class(dataset, said), f"{times:,}", f"{confusion[label].sum():,}")
        for label, said, times in statistics.confused(confusion)[:_CONFUSIONS]
    ]
    if not rows:
        return lead
    return f"{lead} The most frequent:\n\n{_table(('class', 'taken for', 'times', 'of'), rows)}"


def _class(dataset: data.Dataset, label: int) -> str:
    return _text(classes.title(dataset.class_names, int(label)))


def _data(dataset: data.Dataset) -> str:
    counts = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    shape = "x".join(map(str, dataset.image_shape))
    names = ", ".join(_class(dataset, label) for label in range(dataset.num_classes))
    return (
        f"{_text(dataset.name)}: {counts}, images of {shape}, {dataset.num_classes} classes ({names}); "
        f"fingerprint `{dataset.fingerprint}`."
    )


def _recipe(members: Sequence[Member]) -> str:
    base = config_lib.resolve(experiment_file.load("base"))
    said = []
    for member in _one_a_folder(members):
        pairs = compare.different(base, member.experiment)
        rows = [
            tuple("-" if x is None else f"`{_text(x)}`" for x in (name, *pair))
            for name, pair in pairs.items()
        ]
        seeds = ", ".join(str(one.experiment.seed) for one in members if one.workdir == member.workdir)
        where = f"{_text(member.workdir)}, seed {seeds}: " if len(members) > 1 else f"Seed {seeds}; "
        said.append(where + "that of `experiments/base.py`" + (", but for" if rows else "."))
        said += [_table(("leaf", "there", "here"), rows)] if rows else []
    return "\n\n".join(said)


def _limits(dataset: data.Dataset) -> str:
    return (
        f"All figures are of the test split of {_text(dataset.name)}. The record holds none of other data: "
        "of photographs, of other writers or makers, of pictures cut or scaled otherwise. To measure those, "
        "`python -m mmids_cnn.evaluate` takes other data (`--name`, `--archives`) and changes images "
        "(`--shifts`)."
    )


def _licences(members: Sequence[Member], dataset: data.Dataset) -> str:
    shipped = dataset.name == "mnist" and not any(one.experiment.dataset.archives for one in members)
    of_data = "CC BY-SA 3.0, © Yann LeCun, Corinna Cortes and Christopher J.C. Burges"
    return f"Weights: MIT, as the code of mmids_cnn. Data: {of_data if shipped else 'that of the data set'}."


def _again(members: Sequence[Member]) -> str:
    said = []
    for member in _one_a_folder(members):
        record = run_folder.provenance(member.workdir)
        command = record.get("command")
        if not command:
            said.append(f"{_text(member.workdir)}: its command is not recorded.")
            continue
        changed = " with changes of its own" if record.get("git_dirty") else ""
        packages = ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items())
        device = record.get("device", {})
        said += [
            "```sh\n" + shlex.join(["python", *command[1:]]) + "\n```",
            f"mmids_cnn {record.get('mmids_cnn')}, commit `{record.get('git_commit')}`{changed}; Python "
            f"{record.get('python')}, {packages}; {_text(device.get('kind', device.get('platform')))}, "
            f"{_text(record.get('platform'))}.",
        ]
        for name, source in run_folder.sources(member.workdir).items():
            said.append(f"`{_text(name)}`: a source of its own, SHA-256 `{source['sha256']}`.")
    prints = [f"- {_text(one.title)}: `{weights.fingerprint(one.trained.variables)}`" for one in members]
    return "\n\n".join([*said, "Fingerprints of the weights:", "\n".join(prints)])


def _one_a_folder(members: Sequence[Member]) -> list[Member]:
    return list({member.workdir: member for member in reversed(members)}.values())[::-1]


def _text(value: Any) -> str:
    """A value within a line of Markdown or a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
