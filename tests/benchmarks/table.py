"""Generates the tables of the READMEs, here and at the top, from the records, each between its two markers.

python tests/benchmarks/table.py            # rewrites them
python tests/benchmarks/table.py --check    # exits with 1 if one is out of date
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy import stats

from record import summary

HERE = Path(__file__).resolve().parent

Rows = tuple[str, list[str], list[list[str]]]  # caption, header, cells


def spread(summary: Mapping[str, float], unit: float = 1.0) -> str:
    """Median and range, such as "9.21 (9.05-9.80)" with an en dash, in units of `unit`."""
    low, middle, high = (_digits(summary[name] / unit) for name in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low}–{high})"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:#.3g}"


def benchmark_rows(record: Mapping) -> Rows:
    """The table of entrants, one a row, and the floor as the last row."""
    machine, settings, floor = record["machine"], record["settings"], record["floor"]
    caption = (
        f"{machine['cpu']} ({', '.join(machine['instructions'])}), {machine['cores']} cores, "
        f"Python {machine['python']}, {machine['date']}: {settings['images']:,} images an "
        f"epoch, batch {settings['batch_size']}; medians of {settings['rounds']} interleaved "
        f"rounds and {settings['starts']} starts (lowest–highest). Seconds, and MB of memory."
    )
    header = ["", "epoch", "times ours", "10,000 images scored", "times ours"]
    header += ["first step, cold", "first step, warm", "compiling", "peak MB, cold start", "peak MB, warm"]
    rows = [_entrant_cells(entrant) for entrant in record["entrants"]]
    rate = max(floor["matrix_flop_a_second"])
    name = f"floor of direct products: {floor['flop_an_epoch'] / 1e12:.3f} TFLOP at {rate / 1e9:.0f} GFLOP/s"
    times = [_digits(floor["epoch_seconds"]), "", _digits(floor["evaluation_seconds"])]
    return caption, header, [*rows, [name, *times, *[""] * 6]]


def _entrant_cells(entrant: Mapping) -> list[str]:
    versions = entrant["versions"]
    library = next((name for name in ("torch", "keras", "flax") if name in versions), None)
    name = f"{entrant['name']} ({library} {versions[library]})" if library else entrant["name"]
    if entrant["status"] != "ok":
        return [name, entrant["status"], *[""] * 8]
    figures, ratio = entrant["summary"], entrant["ratio_to_ours"]
    timed = []
    for column in ("epoch_seconds", "evaluation_seconds"):
        timed += [spread(figures[column]), spread(ratio[column]) if column in ratio else ""]
    return [
        name,
        *timed,
        spread(figures["cold_first_step_seconds"]),
        spread(figures["warm_first_step_seconds"]),
        spread(figures["cold_compile_seconds"]),
        spread(figures["cold_peak_rss_bytes"], 1e6),
        spread(figures["peak_rss_bytes"], 1e6),
    ]


def _inverse(summary: Mapping[str, float]) -> str:
    """The spread of one over each."""
    return spread({"median": 1 / summary["median"], "min": 1 / summary["max"], "max": 1 / summary["min"]})


def target_rows(record: Mapping) -> Rows:
    """What the project set out to reach, and what it reached: ratios of one run, ours to the other."""
    figures = {entrant["name"]: entrant for entrant in record["entrants"] if entrant["status"] == "ok"}
    caption = (
        "Targets set before. The same runs, but for recipes and for models at once, which are of "
        "`networks_cpu.json` and `scaling_cpu.json`:"
    )
    header = ["what", "at most", "reached"]
    if "mmids_cnn" not in figures:
        return caption, header, []
    eager, compiled, plain = "PyTorch, eager", "PyTorch, torch.compile", "plain Flax"
    keras = "Keras 3 on TensorFlow"

    def share(peer: str, column: str) -> str:
        if peer not in figures:
            return "not measured"
        theirs = figures[peer]["ratio_to_ours"][column]
        return _inverse(theirs)

    answers, runs, moved = record["answer_seconds"], record["run_seconds"], record["step_bytes"]
    touched = moved["of_a_slice"] * moved["slices"]
    recipes = json.loads((HERE / "records" / "networks_cpu.json").read_text())["recipes"]
    rows = [
        ["epoch / PyTorch, eager", "0.36", share(eager, "epoch_seconds")],
        ["epoch / plain Flax", "0.2", share(plain, "epoch_seconds")],
        ["10,000 images scored / PyTorch, eager", "0.6", share(eager, "evaluation_seconds")],
        ["10,000 images scored / torch.compile", "0.6", share(compiled, "evaluation_seconds")],
        ["images a second on one core / on two", "0.54", _inverse(record["second_core"])],
        ["`base.py`: first step after the command, nothing compiled, s", "3.5", spread(runs["cold"])],
        ["the same in a bare loop / Keras", "1", share(keras, "cold_first_step_seconds")],
        ["`base.py`: first step after the command, all compiled before, s", "1.1", spread(runs["warm"])],
        ["`base.py`: all of it, nothing prepared or compiled, s", "20", spread(runs["fresh"])],
        ["MNIST prepared, s", "2.5", spread(runs["preparing"])],
        ["imports of a run, s", "0.9", spread(runs["importing"])],
        ["peak memory / PyTorch, eager: warm", "1.1", share(eager, "peak_rss_bytes")],
        ["peak memory / PyTorch, eager: cold start", "1.1", share(eager, "cold_peak_rss_bytes")],
        *(
            [f"`{name}.py` from command to result / PyTorch, eager", most, spread(recipes[name]["ratio"])]
            for name, most in (("fast", "0.4"), ("strong", ""), ("small", "1"))
            if name in recipes
        ),
        ["`--help`, s", "1", spread(answers["help"])],
        ["a mistake on the command line, s", "1", spread(answers["error"])],
        [
            "bytes of a step, by XLA's count / the least",
            "",
            f"{touched / 1e6:,.0f} / {moved['least'] / 1e6:.2f} MB",
        ],
    ]
    scaling = json.loads((HERE / "records" / "scaling_cpu.json").read_text())
    for point in scaling["points"]:
        if (point["axis"], point["value"]) == ("models at once", 16) and point.get("times_base"):
            rows.append(["one of 16 models at once / one alone", "1", spread(point["times_base"])])
    return caption, header, rows


def scaling_rows(record: Mapping) -> Rows:
    """The table of how cost grows, one process a row."""
    machine = record["machine"]
    caption = (
        f"How cost grows, {machine['cpu']}, {machine['cores']} cores, {machine['date']}: medians "
        f"of {record['settings']['rounds']} interleaved rounds (lowest–highest). What a row does not vary "
        "stays at batch 128, channels 16, 32, 32 and one model; the base is that with 16,384 images."
    )
    header = [
        "varied",
        "value",
        "images an epoch",
        "epoch, s",
        "µs an image and model",
        "times base",
        "peak MB",
    ]
    rows = []
    for point in record["points"]:
        cells = ["did not run", "", "", ""]
        if point["status"] == "ok":
            cells = [spread(point["epoch_seconds"]), spread(point["image_seconds"], 1e-6)]
            cells.append(spread(point["times_base"]) if point["times_base"] else "")
            cells.append(_digits(point["peak_rss_bytes"] / 1e6))
        rows.append([point["axis"], f"{point['value']:,}", f"{point['images']:,}", *cells])
    return caption, header, rows


def processes_rows(record: Mapping) -> Rows:
    """How training goes faster with processes: measured, modelled, and forecast for other machines."""
    machine, c = record["machine"], record["constants"][""]
    wires = "".join(
        f"; {name.partition(', ')[2]} {_digits(1e6 * one['latency'])} µs, {_digits(one['rate'] / 1e9)} GB/s"
        for name, one in record["constants"].items()
        if name
    )
    caption = (
        f"Processes of one core, {machine['cpu']}, {machine['date']}: milliseconds of a step of `base.py`, "
        f"medians of {record['settings']['rounds']} interleaved rounds (lowest–highest). The model: "
        f"{_digits(1e6 * c['fixed'])} µs + {_digits(1e6 * c['each'])} µs an image of a process + "
        f"{_digits(1e6 * c['latency'])} µs an exchange + its bytes at {_digits(c['rate'] / 1e9)} "
        f"GB/s{wires}. GPUs are a forecast: a step of one as timed on an H200 at batch 128; assumed "
        "are that more images take as long as their products at its peak, and exchanges of 20 µs at 200 GB/s "
        "inside a machine and of 100 µs at 10 GB/s between machines."
    )
    header = ["", "processes", "batch", "a step, ms", "model, ms", "error", "images a second"]
    rows = []
    for run in record["runs"]:
        seconds, model = run["step_seconds"], run["model_seconds"]
        error = f"{100 * (model / seconds['median'] - 1):+.0f} %" if run["processes"] > 1 else ""
        cells = [spread(seconds, 1e-3), _digits(1e3 * model), error]
        rate = f"{run['batch_size'] / seconds['median']:,.0f}"
        rows.append([run["name"], str(run["processes"]), str(run["batch_size"]), *cells, rate])
    for one in record["forecasts"]:
        rate = f"{one['batch_size'] / one['model_seconds']:,.0f}"
        times = f"{one['alone_seconds'] / one['model_seconds']:.2f} times one"
        cells = ["", _digits(1e3 * one["model_seconds"]), times, rate]
        rows.append([one["name"], str(one["processes"]), f"{one['batch_size']:,}", *cells])
    return caption, header, rows


def print_table(console: Console, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*header, title=caption, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join([caption, "", *("| " + " | ".join(line) + " |" for line in lines)])


def recipe_rows(record: Mapping) -> Rows:
    """The table of the reference recipe over its seeds, with what it costs."""
    runs, source = record["runs"], record["provenance"]
    device, versions = source["device"], source["packages"]
    scores = [run["test/accuracy"] for run in runs]
    epoch = [run["seconds/train"] / run["epoch"] for run in runs]
    caption = (
        f"`{record['experiment']}`, seeds {runs[0]['seed']} to {runs[-1]['seed']}, after the last epoch "
        f"(nothing is chosen on the test split); {device['kind']}, {device['cores']} cores, jax "
        f"{versions['jax']}, flax {versions['flax']}, Python {source['python']}; by `{record['command']}`."
    )
    header = [
        "test accuracy, mean ± sd",
        "n",
        "each seed",
        "epoch, s",
        "first step, s: first start, later",
        "peak MB",
    ]
    start = record["seconds_to_first_step"]
    cells = [
        _percent(scores),
        str(len(scores)),
        ", ".join(f"{100 * score:.2f}" for score in scores),
        _digits(statistics.median(epoch)),
        f"{start['first']:.1f}, {start['second']:.1f}",
        _digits(record["peak_rss_bytes"] / 1e6),
    ]
    return caption, header, [cells]


def plain_rows(record: Mapping) -> Rows:
    """The recipe's accuracy with the layers of this project and with plain ones."""
    ours = json.loads((HERE / "records" / "base_cpu.json").read_text())
    arms = {
        "mmids_cnn": [run["test/accuracy"] for run in ours["runs"]],
        "plain Flax": record["test/accuracy"],
    }
    welch = stats.ttest_ind(*arms.values(), equal_var=False)
    caption = (
        f"Fast layers against `nn.Conv` and `nn.max_pool`: Welch's t = {welch.statistic:.2f} with "
        f"{welch.df:.1f} degrees of freedom, p = {welch.pvalue:.2f}; plain Flax by `{record['command']}`."
    )
    rows = [[name, _percent(scores), str(len(scores))] for name, scores in arms.items()]
    return caption, ["layers", "test accuracy, mean ± sd", "n"], rows


def saving_rows(record: Mapping) -> Rows:
    """What saving costs training."""
    machine, seconds = record["machine"], record["seconds"]
    caption = (
        f"A checkpoint after every epoch, digests included, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['date']}: medians of {record['rounds']} pairs of epochs (lowest–highest); by `make bench`."
    )
    cells = [spread(seconds["epoch"]), spread(seconds["epoch_and_save"]), spread(seconds["save_call"], 1e-3)]
    header = ["more time", "epoch, s", "epoch with the save before it, s", "training waits, ms"]
    return caption, header, [[f"{100 * record['share']['median']:.1f} %", *cells]]


def torture_rows(record: Mapping) -> Rows:
    """How many runs and sweeps were broken, files damaged, and what went wrong."""
    sittings = record["sittings"]
    commits = ", ".join(dict.fromkeys(one["git_commit"][:7] for one in sittings))
    device = sittings[-1]["device"]
    caption = (
        f"`{record['command']}`, {device['kind']}, {device['cores']} cores, seed {record['seed']}, "
        f"{record['seconds'] / 60:.0f} minutes on commit {commits}; a round is a run or sweep broken and a "
        "file damaged:"
    )
    header = ["rounds", "hits", "full disks", "mended", "refused", "right"]
    header += ["mismatches", "undetected", "failures", "tracebacks", "hangs"]
    return caption, header, [[str(record[name]) for name in header]]


def together_rows(record: Mapping) -> Rows:
    """How many runs in two processes were hit, and what went wrong."""
    caption = (
        f"`{record['command']}`, {record['device']['kind']}, {record['device']['cores']} cores, seed "
        f"{record['seed']}, on commit {record['git_commit'][:7]}; a round is a run in two processes, either "
        "of them hit up to four times, whose end is compared with that of a run in one:"
    )
    header = ["rounds", "processes", "hits", "mismatches", "failures", "tracebacks", "hangs"]
    return caption, header, [[str(record[name]) for name in header]]


def sweep_rows(record: Mapping) -> Rows:
    """Trials an hour by how they are trained."""
    source, alone = record["provenance"], record["arms"][0]["trials_per_hour"]
    caption = (
        f"Trials an hour, compiling included (a trial: one epoch of {record['images'] - 5000:,} images and "
        f"the scoring of 5,000), {source['device']['kind']}, {source['device']['cores']} cores, jax "
        f"{source['packages']['jax']}; by `make sweeps`."
    )
    rows = [
        [
            f"{arm['arm']} {arm['size']}" if arm["arm"] != "one by one" else arm["arm"],
            str(arm["trials"]),
            _digits(arm["trials_per_hour"]),
            f"{arm['trials_per_hour'] / alone:.2f}",
            _digits(arm["peak_rss_bytes"] / 1e6),
        ]
        for arm in record["arms"]
    ]
    return caption, ["how", "trials", "trials an hour", "times population 1", "peak MB"], rows


def found_rows(record: Mapping) -> Rows:
    """What the sweep over learning rates found."""
    arms, source = record["arms"], record["provenance"]
    half, whole, again = arms["halving"], arms["whole grid"], arms["halving again"]
    found = [arm["best"]["settings"]["optimizer.learning_rate"] for arm in (half, whole)]
    valid = [100 * arm["best"]["validation"]["mean"] for arm in (half, whole)]
    share = [100 * arm["search_seconds"] / whole["search_seconds"] for arm in (half, again)]
    caption = (
        f"`{record['experiment']}`, {source['device']['kind']}, {source['device']['cores']} cores: "
        f"{half['seconds'] / 60:.1f} minutes. The search by halving found {found[0]:g} (validation "
        f"{valid[0]:.2f} %), that of the whole grid {found[1]:g} ({valid[1]:.2f} %) in "
        f"{whole['search_seconds']:.0f} s; halving took {share[0]:.0f} % of that before it and "
        f"{share[1]:.0f} % after it. Confirmed on all training images:"
    )
    best, rows = half["best"], []
    titles = {"winner": found[0], "base": record["base_learning_rate"]}
    for name, scores in best["confirmed"].items():
        accuracy = [seed["test/accuracy"] for seed in scores["seeds"]]
        rows.append([f"{titles[name]:g}", _percent(accuracy), str(len(accuracy))])
    return caption, ["learning rate", "test accuracy, mean ± sd", "n"], rows


def recipes_rows(record: Mapping) -> Rows:
    """The table of the recipes over their seeds; times are of runs that had a CPU to themselves."""
    recipes = record["recipes"].values()
    machines = [run["machine"] for recipe in recipes for run in recipe["runs"] + recipe.get("timed", [])]
    where = sorted({_machine(machine) for machine in machines})
    dates = sorted(machine["date"] for machine in machines)
    plain = [f"`{recipe['experiment']}`" for recipe in recipes if recipe["weights"] != "averaged"]
    but = f" but for {' and '.join(plain)}" if plain else ""
    caption = (
        f"By `{record['command']}`, those of a GPU named by `POPULATION`; {'; '.join(where)}; "
        f"{' to '.join(sorted({dates[0], dates[-1]}))}: trained on the whole training split, scored after "
        f"the last epoch; by averaged weights{but}. Seconds from the command to its result on the CPU, "
        "median of the runs that had the machine to themselves (lowest–highest)."
    )
    header = ["recipe", "parameters", "epochs", "test accuracy, mean ± sd", "n", "seconds", "trained on"]
    rows = []
    for recipe in recipes:
        if not (runs := recipe["runs"]):
            continue
        alone = [
            run["wall_seconds"]
            for run in [*runs, *recipe.get("timed", ())]
            if run.get("foreign_cores", 1) < 0.1 and run["machine"]["device"] == "cpu"
        ]
        cells = [f"`{recipe['experiment']}`", f"{recipe['parameters']:,}", str(recipe["epochs"])]
        cells += [_percent([run["test/accuracy"] for run in runs]), str(len(runs))]
        seconds = f"{spread(summary(alone))}, n = {len(alone)}" if alone else ""
        cells += [seconds, runs[0]["machine"]["device"].upper()]
        rows.append(cells)
        if together := recipe.get("ensembles"):
            members = len(together[0]["seeds"])
            accuracy = _percent([one["test/accuracy"] for one in together])
            parameters = f"{members} × {recipe['parameters']:,}"
            title = f"{members} of these, the mean of their probabilities"
            rows.append([title, parameters, "", accuracy, str(len(together)), "", ""])
    return caption, header, rows


def _machine(machine: Mapping) -> str:
    if machine["device"] == "cpu":
        return f"{machine['cpu']}, {machine['cores']} cores"
    return f"{machine['kind']} ({machine['device'].upper()}, jax {machine['packages']['jax']})"


def gpu_rows(record: Mapping) -> Rows:
    """Training on a GPU: what a step and an epoch of each model take."""
    points = [point for point in record["points"] if "epoch_seconds" in point]
    first = next(point for point in record["points"] if point["what"] == "ceilings")
    rates = ", ".join(
        f"{first[f'{name}_flop_a_second'] / 1e12:.0f} TFLOP/s in {name}"
        for name in ("float32", "tensorfloat32", "bfloat16")
    )
    caption = (
        f"{first['device']}, jax {first['jax']}, {first['date']}: products reach {rates}, a copy "
        f"{first['copied_bytes_a_second'] / 1e12:.1f} TB/s. Milliseconds of the fastest of three epochs "
        "after the first, of 60,000 images; compiled with an empty cache."
    )
    header = ["recipe", "models", "layers", "products", "finite?", "µs a step", "ms a model and epoch"]
    rows = []
    for point in points:
        cells = [f"`{point['experiment']}.py`", str(point["members"]), point["form"], point["precision"]]
        cells += [point["finite_check"], f"{point['microseconds_a_step']:,.0f}"]
        cells += [f"{point['ms_a_model_epoch']:.1f}", f"{point['compile_seconds']:.1f}"]
        rows.append([*cells, f"{point['peak_bytes'] / 1e6:,.0f}"])
    return caption, [*header, "compile s", "peak MB"], rows


def gpu_program_rows(record: Mapping) -> Rows:
    """What is launched by programs that are compiled for a GPU."""
    caption = (
        f"Compiled for an {record['programs'][0]['device']}, not run; jax {record['jax']}, {record['date']}. "
        "A launch is a kernel, a product of a library or a copy; the host's words are those in the loop."
    )
    columns = {
        "flags": lambda one: f"`{one['flags']}`" if one["flags"] else "",
        "launches a step": lambda one: str(one["launches"]),
        "host's words a step": lambda one: str(one["host_submissions"]),
    }
    return caption, *_program_rows(record, columns)


def tpu_program_rows(record: Mapping) -> Rows:
    """What programs consist of that are compiled for a TPU."""
    caption = (
        f"Compiled for one chip of a {record['programs'][0]['device']}, not run; jax {record['jax']}, "
        f"{record['date']}. Operations are those of a step, or of scoring all images; padding: how often the "
        "arrays that they make, in tiles that are filled up, hold what the arrays themselves do."
    )
    columns = {
        "operations": lambda one: str(one["operations"]),
        "of them fusions": lambda one: str(one["fusions"]),
        "copies": lambda one: str(one["copies"]),
        "padding": lambda one: f"{one['padding']:.2f}",
    }
    return caption, *_program_rows(record, columns)


def _program_rows(record: Mapping, columns: Mapping[str, Callable]) -> tuple[list[str], list[list[str]]]:
    """The header and rows of compiled programs: what all have, around some columns of a kind of device."""
    header = ["program", "models", *columns, "sorts", "scatters", "temporaries, MB", "compile s"]
    rows = [
        [
            f"{one['program']} of `{one['experiment']}.py`",
            str(one["members"] or 1),
            *(cell(one) for cell in columns.values()),
            *(str(one["sorts"]), str(one["scatters"])),
            *(f"{one['temporary_bytes'] / 1e6:.0f}", f"{one['compile_seconds']:.1f}"),
        ]
        for one in record["programs"]
    ]
    return header, rows


def networks_rows(record: Mapping) -> Rows:
    """Each network beside the same one in PyTorch, and whole recipes."""
    machine = record["machine"]
    caption = (
        f"Beside PyTorch, eager and channels_last, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['date']}: µs an image, medians of {record['settings']['rounds']} interleaved rounds "
        "(lowest–highest)."
    )
    for name, recipe in record["recipes"].items():
        ours, theirs = (recipe["raw"][who] for who in ("ours", "PyTorch"))
        seconds = [spread(summary(one["seconds"])) for one in (ours, theirs)]
        caption += (
            f" `experiments/{name}.py` from the command to its result: {seconds[0]} s, the same recipe in "
            f"PyTorch {seconds[1]} s ({spread(recipe['ratio'])} of it; n = {len(ours['seconds'])}, "
            f"{recipe['machine']['date']}), with {_percent(ours['accuracy'])} and "
            f"{_percent(theirs['accuracy'])}."
        )
    if changed := record.get("augmentation"):
        caption += (
            " An epoch of the reference network with the changed images of "
            f"`experiments/{changed['name']}.py` takes {spread(changed['ratio'])} of its time without "
            f"({len(changed['raw']['plain'])} rounds, {changed['machine']['date']})."
        )
    header = ["network of", "trained", "PyTorch", "ours / PyTorch", "scored", "PyTorch", "ours / PyTorch"]
    rows = []
    for one in record["networks"]:
        cells = [
            spread(one[what][who]) for what in ("epoch", "evaluate") for who in ("ours", "PyTorch", "ratio")
        ]
        rows.append([f"`experiments/{one['name']}.py`", *cells])
    return caption, header, rows


def _percent(fractions: Sequence[float]) -> str:
    mean = statistics.mean(fractions)
    if len(fractions) == 1:
        return f"{100 * mean:.2f} %"
    sd = statistics.stdev(fractions)
    return f"{100 * mean:.3f} ± {100 * sd:.3f} %"


TABLES = {
    "results": {"base_cpu": [recipe_rows]},
    "recipes": {"recipes": [recipes_rows]},
    "networks": {"networks_cpu": [networks_rows]},
    "gpu": {"gpu": [gpu_rows], "gpu_program": [gpu_program_rows]},
    "tpu": {"tpu_program": [tpu_program_rows]},
    "torture": {"torture": [torture_rows], "torture_together": [together_rows]},
    "sweeps": {"lr_sweep_cpu": [found_rows], "sweep_cpu": [sweep_rows]},
    "bench": {
        "cpu": [benchmark_rows, target_rows],
        "saving": [saving_rows],
        "plain_cpu": [plain_rows],
        "scaling_cpu": [scaling_rows],
        "processes_cpu": [processes_rows],
    },
}


PAGES = {  # which tables are where
    HERE.parents[1] / "README.md": ("results", "recipes"),
    HERE / "README.md": ("networks", "gpu", "tpu", "bench", "sweeps", "torture"),
}


def generated(records: Path, marker: str) -> str:
    """The tables of one pair of markers as Markdown; a quick record is refused: its epochs are fragments."""
    parts = []
    for name, rows in TABLES[marker].items():
        path = records / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        if record.get("settings", {}).get("quick"):
            raise SystemExit(f"table: {path} is of a --quick run; run it in full")
        parts += [markdown(*make(record)) for make in rows]
    if marker == "bench" and (records / "scaling.png").exists():
        parts.append("![How cost grows](records/scaling.png)")
    return "\n\n".join(parts)


def rewritten(text: str, records: Path, markers: Sequence[str]) -> str:
    """A page with its tables made anew."""
    for marker in markers:
        begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise SystemExit(f"table: expected {begin} and then {end}, once each, in a README")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{generated(records, marker)}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if out of date")
    args = parser.parse_args()
    for page, markers in PAGES.items():
        text = page.read_text()
        wanted = rewritten(text, HERE / "records", markers)
        if args.check and wanted != text:
            raise SystemExit(
                f"table: {page} is out of date; run python tests/benchmarks/{Path(__file__).name}"
            )
        if not args.check:
            page.write_text(wanted)


if __name__ == "__main__":
    main()
