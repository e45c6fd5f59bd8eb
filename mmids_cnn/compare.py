"""Sets runs side by side, or lists those in a folder.

    python -m mmids_cnn.compare [FOLDER] [--sort=accuracy|path|date] [--csv] [--json]
    python -m mmids_cnn.compare RUN RUN... [--json] (or folders of runs)

Runs that differ in the seed alone make a group, as do the seeds of a sweep's confirmation. Two groups are
compared by their test accuracies, two single runs (of one configuration too) by the images that one of them
gets right.

With `--json` an object a line. A run of a list: `run`, `of` (of a sweep 'winner' or 'base'), `state`, `seed`,
`differs` (from base, by leaf), `accuracy` (a fraction), `weights` ("last" or "averaged"), `count` of test
images, `date`. A group: `group` (its number), `mean`, `sd`, `n`, `interval` (95 %), `weights`, `seeds`,
`runs`. Two groups: `groups`, `differs` (by leaf, a pair), `difference` in
points, `interval`, `welch` and `permutation` (p values), `bootstrap`, `visible` (what so many runs can
show), `text`; two single runs: `first` and `second` (images that one alone gets right), `p`, `count`.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

import csv
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mmids_cnn import config as config_lib
from mmids_cnn import data, metrics
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.pages import statistics
from mmids_cnn.runs import compare
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder

_SHOW = metrics.metric("accuracy")
_SORTS: dict[str, Callable[[compare.Run], Any]] = {
    "path": lambda run: str(run.path),
    "accuracy": lambda run: -(run.accuracy or 0),
    "date": lambda run: run.date,
}


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_enum("sort", "path", list(_SORTS), "How the runs of a folder are listed.")
    flags.DEFINE_boolean("csv", False, "List as comma-separated values.")
    flags.DEFINE_boolean("json", False, "Print an object a line instead of tables.")


def main() -> None:
    """Lists the runs of one folder, or compares those that are named."""
    paths = [Path(word) for word in command.arguments() or ["runs"]]
    if len(paths) > 1 and (flags.FLAGS.csv or flags.FLAGS["sort"].present):
        name = "csv" if flags.FLAGS.csv else "sort"
        raise ConfigError(
            f"--{name}: expected one folder, whose runs are listed, got {len(paths)}; leave it out"
        )
    if flags.FLAGS.csv and flags.FLAGS.json:
        raise ConfigError("--csv: expected either this or --json, found both; leave one out")
    runs, unreadable = compare.find(paths, {sweep_folder.BEST: sweep_folder.runs})
    for sentence in unreadable:
        command.warn(sentence)
    terminal = Terminal("none" if flags.FLAGS.json else "auto")
    if len(paths) == 1:
        _list(sorted(runs, key=_SORTS[flags.FLAGS.sort]), terminal)
    else:
        _compare(runs, terminal)
    terminal.require_written()


def _list(runs: Sequence[compare.Run], terminal: Terminal) -> None:
    base = config_lib.resolve(experiment_file.load("base"))
    names = ("run", "state", "seed", "differs from base in", "test accuracy", "of", "date", "weights")
    rows = []
    for run in runs:
        pairs = compare.different(base, run.experiment).items()
        leaves = {name: new for name, (_, new) in pairs if new is not None}  # another network has others
        state = "unfinished" if run.result is None else "finished" if run.accuracy is not None else "diverged"
        count = (run.result or {}).get("test/count")
        weights = config_lib.weights(run.experiment)
        if flags.FLAGS.json:
            one = {"run": str(run.path), "of": run.of, "state": state, "seed": run.experiment.seed}
            scores = {"differs": leaves, "accuracy": run.accuracy, "weights": weights, "count": count}
            terminal.say(files.to_json({**one, **scores, "date": run.date.isoformat()}))
            continue
        accuracy: Any = run.accuracy
        if not flags.FLAGS.csv and run.accuracy is not None:
            accuracy = _SHOW.show(run.accuracy) + (", averaged" if weights == "averaged" else "")
        changed = ", ".join(f"{name}={value}" for name, value in leaves.items())
        date = run.date.isoformat(" ", "minutes")
        shown = count if flags.FLAGS.csv or count is None else f"{count:,}"
        rows.append((run.title, state, run.experiment.seed, changed, accuracy, shown, date, weights))
    if flags.FLAGS.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([names, *rows])
        return
    if flags.FLAGS.json:
        return
    cells = [tuple("" if cell is None else cell for cell in row[:-1]) for row in rows]
    terminal.table("", names[:-1], cells, texts=4)


def _compare(runs: Sequence[compare.Run], terminal: Terminal) -> None:
    found, left_out = compare.groups(runs)
    for sentence in [*left_out, *compare.conditions(found)]:
        command.warn(sentence)
    if len(found) == 1 and len(found[0].runs) == 2:  # two seeds
        found = [compare.Group((run,)) for run in found[0].runs]
    if len(found) < 2:
        several = f"one group of {len(found[0].runs)}" if found else "none that is finished"
        raise RunError(
            f"expected finished runs of at least two configurations, or two seeds of one, found {several}; "
            "name others, or one folder to list what is in it"
        )
    rows = []
    for number, group in enumerate(found, 1):
        spread = statistics.spread(group.values)
        mean = _SHOW.show_mean(spread["mean"], spread["sd"], spread["n"], spread["interval"])
        weights = config_lib.weights(group.runs[0].experiment)
        if flags.FLAGS.json:
            whose = {
                "seeds": [run.experiment.seed for run in group.runs],
                "runs": [str(run.path) for run in group.runs],
            }
            terminal.say(files.to_json({"group": number, **spread, "weights": weights, **whose}))
        seeds = ", ".join(str(run.experiment.seed) for run in group.runs)
        rows.append((str(number), mean, weights, seeds, _folders(group)))
    terminal.table("", ("group", "test accuracy", "weights", "seeds", "runs"), rows, texts=5)
    for (one, first), (other, second) in itertools.combinations(enumerate(found, 1), 2):
        fields = compare.differences(first, second)
        changed = "; ".join(f"{name}: {_leaf(old)}, {_leaf(new)}" for name, (old, new) in fields.items())
        if len(first.runs) == len(second.runs) == 1:
            values, text = _two_runs(first.runs[0], second.runs[0], terminal)
        else:
            values, text = _two_groups(first.values, second.values)
        if flags.FLAGS.json:
            differs = {name: list(pair) for name, pair in fields.items()}
            terminal.say(files.to_json({"groups": [one, other], "differs": differs, **values}))
        else:
            terminal.say(f"groups {one} and {other} differ in {changed or 'the seed alone'}\n{text}")
    pairs = len(found) * (len(found) - 1) // 2
    if pairs > 1:
        terminal.note(
            f"{pairs} pairs, each judged by itself: chance alone makes one in twenty look different"
        )


def _leaf(value: Any) -> str:
    return "none" if value is None else repr(value)


def _folders(group: compare.Group) -> str:
    first, *others = dict.fromkeys(run.title for run in group.runs)
    return f"{first} and {len(others)} more" if others else first


def _two_groups(first: Sequence[float], second: Sequence[float]) -> tuple[dict[str, Any], str]:
    """What is found of two groups, one of which has several runs, and how it is said."""
    found = compare.verdict(first, second)
    text = f"  {found['text']}"
    if found["interval"] is None:
        return found, text
    tests = [f"Welch p = {found['welch']:.3g}"]
    if found["permutation"] is not None:
        low, high = found["bootstrap"]
        tests += [f"permutation p = {found['permutation']:.3g}", f"bootstrap {low:+.3f} to {high:+.3f}"]
    else:
        tests.append("one of them is a single run, set beside the spread of the other")
    tests.append(f"so many runs show a difference of {found['visible']:.3f} points in four of five cases")
    return found, f"{text}\n  {'; '.join(tests)}"


def _two_runs(first: compare.Run, second: compare.Run, terminal: Terminal) -> tuple[dict[str, Any], str]:
    """What is found of two single runs, from what each makes of the same test images, and how it is said."""
    if first.of or second.of:
        return {}, "  single networks of sweeps are not compared image by image; confirm more seeds"
    report = command.report if flags.FLAGS.json else terminal.report
    datasets = [data.load(run.experiment.dataset, report) for run in (first, second)]
    terminal.close()
    if datasets[0].fingerprint != datasets[1].fingerprint:
        return {}, "  single runs on different data cannot be compared image by image"

    from mmids_cnn import score  # JAX, which takes a second
    from mmids_cnn.runs import trained

    right = []
    for run, dataset in zip((first, second), datasets, strict=True):
        experiment_file.add_roots(run_folder.source_roots(run.path))
        one = trained.load(run.path, run.experiment, dataset, "newest", command.warn)
        test = dataset.splits["test"]
        logits = score.logits(one.network, one.variables, test.images, run.experiment.eval.batch_size)
        right.append(logits.argmax(-1) == np.asarray(test.labels))
    found = statistics.mcnemar(*right)
    which = "not distinguishable"
    if found["p"] < 0.05:
        which = f"the {'first' if found['first'] > found['second'] else 'second'} is better"
    return found | {"count": len(right[0])}, (
        f"  {which}: of {len(right[0]):,} test images {found['first']} are right in the first alone, "
        f"{found['second']} in the second alone (McNemar, exact, p = {found['p']:.3g}); two runs say nothing "
        "of other seeds"
    )


if __name__ == "__main__":
    command.run(main, define_flags, __doc__, takes_arguments=True)
