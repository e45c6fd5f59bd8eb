"""The report of a sweep: one page with its result, what that is worth, pictures, trials, provenance."""

import html
import json
import math
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmids_cnn import metrics, model
from mmids_cnn.console.terminal import clock, counted
from mmids_cnn.pages import page as pages
from mmids_cnn.pages.axes import height
from mmids_cnn.pages.statistics import spread
from mmids_cnn.runs import compare, provenance
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.sweeps import figures, importance
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.progress import describe, show
from mmids_cnn.sweeps.trials import COMPLETE, NONFINITE, PRUNED, Result, Scores, finite

_TITLES = {"winner": "the winner", "base": "as configured"}


class Cost(NamedTuple):
    """What trials cost, as the files of their populations have it.

    Attributes:
      seconds: that a trial's members took, by its number; a population's are shared evenly.
      total: seconds of all populations and of the confirmation.
      devices: what they were trained on.
      ended: when the last of them had been trained, '2026-11-27 13:11 UTC'; '' where no file has it.
    """

    seconds: dict[int, float]
    total: float
    devices: list[str]
    ended: str


def cost(workdir: Path) -> Cost:
    """What the trials in a folder cost; a file that is damaged counts nothing."""
    seconds, total, devices, ended = dict[int, float](), 0.0, set[str](), ""
    for path, content in sweep_folder.populations(workdir).items():
        if content is None:
            continue
        took, members = sum(content["seconds"].values()), content["members"]
        total += took
        devices.add(content["device"])
        ended = max(ended, content.get("ended", ""))  # an earlier version has none
        for one in members if path.parent.name == sweep_folder.POPULATIONS else ():
            seconds[one["trial"]] = seconds.get(one["trial"], 0.0) + took / len(members)
    return Cost(seconds, total, sorted(devices), ended)


def page(
    plan: Plan,
    workdir: Path,
    results: Sequence[Result],
    winner: Result | None,
    best: Mapping[str, Any],
    confirmed: Scores,
) -> str:
    """The page of a sweep, as HTML; the same for the same folder.

    Args:
      plan: the sweep.
      workdir: its folder.
      results: of all trials that are finished.
      winner: the best one of a finished sweep; None if there is none, or none yet.
      best: the content of `best.json`, empty without a winner.
      confirmed: the scores of the confirmation.
    """
    spent, known = cost(workdir), run_folder.provenance(workdir)
    drawn = {
        one.title: pages.figure(one.content, one.title, one.caption)
        for one in figures.draw(plan, results, winner, confirmed)
    }
    shares = importance.importances(plan, results, lambda value: height(plan.metric.percent, value))
    sections = {
        "Confirmation": _confirmed(confirmed) + drawn.pop("Confirmation", ""),
        "What to do next": _commands(workdir, best, confirmed, known),
        "Which settings matter": _importance(plan, results, shares),
        **drawn,
        "All trials": _table(plan, known, results, winner, spent),
        "Where it comes from": _provenance(plan, known, spent),
    }
    body = pages.sections({name: text for name, text in sections.items() if text})
    lead = best.get("summary") or _unfinished(plan, results)
    facts = _facts(plan, results, winner, confirmed, spent)
    return pages.page(f"Sweep {workdir.absolute().name}", lead, f"{facts}{body}")


def _unfinished(plan: Plan, results: Sequence[Result]) -> str:
    if not plan.axes:
        return "Not finished: the experiment is still to be trained over its seeds."
    if len(results) < plan.trials or any(one.state == COMPLETE for one in results):
        done = f"{len(results)} of {counted(plan.trials, 'trial')}"
        return f"Not finished: {done} have ended. The sweep's command goes on with it."
    return "Every trial diverged."


def _facts(
    plan: Plan, results: Sequence[Result], winner: Result | None, confirmed: Scores, spent: Cost
) -> str:
    facts = {}
    if winner is not None and winner.value is not None:
        n = len(winner.seeds)
        facts[f"{plan.sweep.metric} of trial {winner.number}, the best; mean of {counted(n, 'seed')}"] = show(
            plan.metric, winner.value
        )
    accuracy = metrics.metric("accuracy")
    for name, scores in finite(confirmed).items():
        mean = statistics.fmean(one["test/accuracy"] for one in scores)
        title = f"test accuracy, {_TITLES[name]}; mean of {counted(len(scores), 'seed')} not searched with"
        facts[title] = accuracy.show(mean)
    if results:
        states = [one.state for one in results]
        kinds = [state for state in (COMPLETE, PRUNED, NONFINITE) if state in states]
        each = ", ".join(f"{states.count(state)} {state}" for state in kinds)
        facts[f"trials of {counted(plan.sweep.seeds, 'seed')}: {each}"] = f"{len(results)}"
    if spent.total:
        facts["of training and scoring, all processes together"] = clock(spent.total)
    return pages.facts(facts) if facts else ""


def _confirmed(confirmed: Scores) -> str:
    """The two of a confirmation, and how they compare; says where the winner is the worse one."""
    scores = {name: [one["test/accuracy"] for one in each] for name, each in finite(confirmed).items()}
    if not scores:
        return ""
    accuracy, rows = metrics.metric("accuracy"), []
    for name, values in scores.items():
        found = spread(values)
        lost = len(confirmed[name]) - len(values)
        worst, best = accuracy.show(min(values)), accuracy.show(max(values))
        mean = accuracy.show_mean(found["mean"], found["sd"], found["n"])
        rows.append((_TITLES[name], mean, worst, best, f"{lost or '–'}"))
    heads = ("setting", "test accuracy", "worst seed", "best seed", "diverged")
    return pages.table(heads, rows) + f"<p>{html.escape(_verdict(scores))}</p>\n"


def _verdict(scores: Mapping[str, Sequence[float]]) -> str:
    if len(scores) < 2:
        return "There is nothing to compare it with: the sweep confirmed this setting alone."
    if max(map(len, scores.values())) < 2:
        return "One seed each: that cannot tell them apart. Set --config.sweep.confirm_seeds to 5 or more."
    found = compare.verdict(scores["base"], scores["winner"])
    if found["interval"] is None:
        return (
            "The winner cannot be told from the experiment as configured: "
            f"{found['difference']:+.3f} points, but all seeds of each are the same. More seeds may: "
            "--config.sweep.confirm_seeds."
        )
    low, high = found["interval"]
    said = f"{found['difference']:+.3f} points, 95 % interval {low:+.3f} to {high:+.3f} (Welch)"
    seen = f"so many seeds see a difference of {found['visible']:.3f} points in four of five cases"
    if low > 0:
        return f"The winner is better than the experiment as configured: {said}; {seen}."
    if high < 0:
        return f"The winner is worse than the experiment as configured, which is to be kept: {said}; {seen}."
    which = "The winner cannot be told from the experiment as configured"
    lower = " and is the lower of the two" if found["difference"] < 0 else ""
    return f"{which}{lower}: {said}; {seen}. More seeds may: --config.sweep.confirm_seeds."


def _commands(workdir: Path, best: Mapping[str, Any], confirmed: Scores, known: Mapping[str, Any]) -> str:
    folder = shlex.quote(str(workdir))
    lines = {"the sweep itself, which goes on with what is there": shlex.join(_plain(known.get("command")))}
    if best:
        lines["train the winner"] = best["command"]
    if best and finite(confirmed).get("winner"):
        evaluate = f"python -m mmids_cnn.evaluate --workdir={folder}"
        lines["score the networks of its confirmation, one by one and as an ensemble"] = evaluate
    journal = workdir / sweep_folder.JOURNAL
    if journal.exists():
        lines["look at the trials in a browser (pip install optuna-dashboard)"] = (
            f"optuna-dashboard {shlex.quote(str(journal))}"
        )
    return "".join(
        f"<p>{html.escape(what)}:</p>\n<pre class=wrap>{html.escape(line)}</pre>\n"
        for what, line in lines.items()
        if line
    )


def _plain(command: Sequence[str] | None) -> list[str]:
    """A command as one types it, the interpreter without its folder."""
    return ["python", *command[1:]] if command else []


def _importance(plan: Plan, results: Sequence[Result], shares: Mapping[str, float] | None) -> str:
    if len(plan.axes) < 2:
        return ""
    complete = [one for one in results if one.state == COMPLETE]
    if shares is None:
        return (
            f"<p>Not computed: it takes {importance.FEWEST} complete trials that differ, and scikit-learn; "
            f"there are {len(complete)} complete trials.</p>\n"
        )
    rows = [(leaf, f"{100 * share:.0f} %") for leaf, share in shares.items()]
    what = "the logarithm of the error" if plan.metric.percent else f"the logarithm of {plan.sweep.metric}"
    return pages.table(("setting", "share of the variance"), rows) + (
        f"<p>How much of the variance of {html.escape(what)} over the whole space each setting explains by "
        f"itself: functional ANOVA of a forest fitted to {len(complete)} complete trials. With so many it is "
        f"a hint. {html.escape(_noise(plan, complete))}</p>\n"
    )


def _noise(plan: Plan, complete: Sequence[Result]) -> str:
    """How far seeds of one setting lie apart, beside how far settings do, among those that are any good."""
    better = sorted(complete, key=lambda one: -plan.metric.better(one.value or 0.0))
    better = better[: math.ceil(len(better) / 2)]
    if plan.sweep.seeds < 2 or len(better) < 2:
        return "With one seed a trial, the noise of seeds cannot be told from what a setting does."
    variances = [statistics.variance([one["value"] for one in each.seeds]) for each in better]
    between = statistics.stdev(one.value or 0.0 for one in better)
    within = math.sqrt(statistics.fmean(variances))
    scale, unit = (100, " points") if plan.metric.percent else (1, "")
    return (
        "In the better half of the trials, seeds of one setting differ by an sd of "
        f"{scale * within:.3g}{unit}, settings by {scale * between:.3g}{unit}."
    )


def _parameters(plan: Plan, known: Mapping[str, Any]) -> Callable[[Result], str]:
    """Tells how many parameters the network of a trial has; networks are looked at once each."""
    counts: dict[str, str] = {}
    shape, classes = known.get("dataset", {}).get("image_shape"), known.get("dataset", {}).get("num_classes")

    def count(result: Result) -> str:
        experiment = plan.member(result.settings, plan.experiment.seed)
        key = repr(experiment.model)
        if key not in counts:
            network = model.make(experiment, tuple(shape), classes)
            counts[key] = f"{sum(row.parameters for row in model.table(network, tuple(shape))):,}"
        return counts[key]

    return count if shape and classes else lambda result: "–"


def _table(
    plan: Plan, known: Mapping[str, Any], results: Sequence[Result], winner: Result | None, spent: Cost
) -> str:
    if not results:
        return ""
    leaves = [axis.leaf for axis in plan.axes]
    split, _, chosen = plan.sweep.metric.rpartition("/")
    others = {
        name: one for name, one in metrics.by_label(plan.experiment.eval.metrics).items() if name != chosen
    }
    parameters = _parameters(plan, known)

    def key(one: Result) -> tuple[bool, float, int]:
        value = math.inf if one.value is None else -plan.metric.better(one.value)
        return (one.state != COMPLETE, value, one.number)

    def of_row(one: Result) -> Iterator[str]:
        yield f"{one.number}"
        for leaf in leaves:
            yield describe({"": one.settings[leaf]}).removeprefix("=")
        yield show(plan.metric, one.value)
        yield "  ".join(show(plan.metric, seed["value"]) or "-" for seed in one.seeds)
        for name, metric in others.items():
            last = [seed["rows"][-1].get(f"{split}/{name}") for seed in one.seeds if seed["rows"]]
            there = [value for value in last if value is not None]
            whole = one.value is not None and len(there) == len(one.seeds)
            yield metric.show(statistics.fmean(there)) if whole else "–"
        yield f"{max((seed['rows'][-1]['epoch'] for seed in one.seeds if seed['rows']), default=0):g}"
        yield f"{spent.seconds[one.number]:.1f}" if one.number in spent.seconds else "–"
        yield parameters(one)
        yield one.state

    heads = ("trial", *leaves, plan.sweep.metric, "each seed", *(f"{split}/{name}" for name in others))
    heads += ("epochs", "seconds", "parameters", "state")
    rows = ""
    for one in sorted(results, key=key):
        kind = "best" if winner and one.number == winner.number else "" if one.state == COMPLETE else "out"
        rows += f"<tr class='{kind}'>" + "".join(f"<td>{html.escape(cell)}" for cell in of_row(one)) + "\n"
    names = "".join(f"<th>{html.escape(name)}" for name in heads)
    n = counted(plan.sweep.seeds, "seed")
    return (
        f"<div class=wide tabindex=0><table><tr>{names}\n{rows}</table></div>\n"
        f"<p>Best first. Values are means over {n} at the trial's last epoch; seconds are those of all its "
        "seeds together, its share of the populations it was trained in.</p>\n"
    )


def _provenance(plan: Plan, known: Mapping[str, Any], spent: Cost) -> str:
    rows = [("trained until", spent.ended)] if spent.ended else []
    rows += provenance.described(known)
    rows += [("trained on", "; ".join(spent.devices))] if spent.devices else []
    text = pages.table(("what", "value"), rows, texts=2, wrap=True)
    configuration = html.escape(json.dumps(plan.to_dict(), indent=2))
    return f"{text}<h3>The plan</h3>\n<pre>{configuration}</pre>\n"
