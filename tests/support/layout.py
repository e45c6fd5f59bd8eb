"""The rules about which module may import which, read from the source; lazy imports included."""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "mmids_cnn"
COMMANDS = {"main", "evaluate", "predict", "reproduce", "compare", "report", "draw", "export"}
GROUND = {"errors"}
BELOW = {"datasets", "devices", "storage"}  # wings that the core stands on
CORE_FOLDERS = {"networks", "layers", "settings"}
ABOVE = {"console", "pages", "runs", "populations", "sweeps", "deploy"}  # wings that stand on the core
FLOORS = {"runs": 1, "populations": 1, "sweeps": 2, "deploy": 2, "command": 3}  # others are below these
ONLY_IN = {  # what else may be imported, and where alone
    "tensorflow_datasets": {"datasets.builder", "datasets.cache", "datasets.catalogue"},
    "optuna": {"sweeps.importance", "sweeps.study"},
    "ray": {"populations.cluster"},
    "matplotlib": {"pages.axes", "pages.svg", "runs.figures", "sweeps.figures", "sweeps.scales"},
    "orbax": {"storage.checkpoints", "storage.seal"},
    "tensorboardX": {"runs.tensorboard"},
    "PIL": {"deploy.pictures"},
    "onnx": {"deploy.onnx_graph"},
    "onnxruntime": {"deploy.onnx_graph"},
    "rich": {"console.terminal", "sweeps.progress"},
    **{name: set[str]() for name in ("tensorflow", "tensorboard", "safetensors")},
}
NO_JAX = (
    *("main", "evaluate", "predict", "reproduce", "compare", "report", "draw", "export"),
    *("deploy.draw_page", "deploy.reader"),
    *("config", "settings.schema", "settings.dotted", "data", "metrics"),
    *("networks", "errors", "datasets", "datasets.source", "datasets.cache", "datasets.idx"),
    "datasets.catalogue",
    *("storage.files", "devices.cores", "devices.compilation", "console.command", "console.experiment_file"),
    *(
        "console.explain",
        "console.signals",
        "console.terminal",
        "runs.folder",
        "runs.run",
        "runs.differences",
    ),
    *("sweeps.space", "sweeps.plan", "sweeps.config", "sweeps.folder", "sweeps.sweep"),
)

Imports = Mapping[str, set[str]]
"""For each module of the package, by its name in it, what it imports: `train`, or `optax` from elsewhere."""


def modules(root: Path) -> dict[str, Path]:
    """The modules of the package in a checkout by their names in it; a package is named like its folder."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    names = {path: path.relative_to(root / PACKAGE).with_suffix("").parts for path in paths}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in names.items()}


def imports(root: Path) -> dict[str, set[str]]:
    """What each module of a checkout imports, in functions too."""
    known = modules(root)
    return {name: set(_imported(path, known)) for name, path in known.items() if name != "__init__"}


@functools.cache
def _nodes(source: str) -> list[ast.Import | ast.ImportFrom | ast.Constant]:
    """What may name a module."""
    wanted = (ast.Import, ast.ImportFrom, ast.Constant)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, wanted)]


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in _nodes(path.read_text()):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # with the whole name: the linter refuses relative imports
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [one if one.removeprefix(PACKAGE + ".") in known else node.module or "" for one in inner]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # as `import_module` takes it
            names = [node.value.partition(":")[0]] if node.value.startswith(f"{PACKAGE}.") else []
        else:
            continue
        for name in names:
            ours = name.removeprefix(PACKAGE + ".")
            if ours in known:
                yield ours
            elif name != PACKAGE:
                yield name.partition(".")[0]


_OF_NETWORKS = {"networks", "layers", "settings", "errors"}


def wing(module: str) -> str:
    """Where a module lives: a folder, 'command' or 'core'."""
    first = module.partition(".")[0]
    if first in ABOVE | BELOW:
        return first
    return "command" if module in COMMANDS else "core"


def violations(found: Imports) -> list[str]:
    """Which imports break a rule, in words; empty where all is well."""
    said = []
    for module, imported in found.items():
        here = wing(module)
        for other in sorted(imported):
            if other not in found:
                if other in ONLY_IN and module not in ONLY_IN[other]:
                    said.append(f"{module} imports {other}, which is for {', '.join(sorted(ONLY_IN[other]))}")
                continue
            there = wing(other)
            inside = here == there or other in GROUND
            if here in {"core", *BELOW} and there in ABOVE:
                said.append(f"{module} imports {other}: the core and what is below it know no wing above")
            elif FLOORS.get(here, 0) < FLOORS.get(there, 0) != FLOORS["command"]:
                said.append(f"{module} imports {other}: {here} is below {there}")
            folder, of = module.partition(".")[0], other.partition(".")[0]
            if folder == "layers" != of or (folder == "networks" and of not in _OF_NETWORKS):
                said.append(f"{module} imports {other}: {folder} knows nothing of the rest of the core")
            if here in ("devices", "storage", "pages") and not inside:
                said.append(f"{module} imports {other}: {here} knows nothing but errors")
            if here == "core" and there == "storage":
                said.append(f"{module} imports {other}: the core does not store")
            if {here, there} == {"runs", "populations"} or (here, there) == ("deploy", "sweeps"):
                said.append(f"{module} imports {other}: {here} and {there} stand side by side")
            if there == "command":
                said.append(f"{module} imports {other}: a command is imported by nobody")
    return said + [f"a circle: {' -> '.join(circle)}" for circle in _circles(found)]


def _circles(found: Imports) -> list[list[str]]:
    """The first circle that is met, if there is one."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for other in sorted(found[module] & found.keys()):
            circle = visit(other, [*path, module])
            if circle:
                return circle
        done.add(module)
        return None

    circles = (visit(module, []) for module in found)
    return [circle for circle in circles if circle][:1]
