"""What differs between two finished runs of one experiment. Never imports JAX."""

from pathlib import Path
from typing import Any

from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files

_ASIDE = (
    *("seconds", "images_per_second", "sha256"),  # what no two runs share; rows have clocks too
    "weights",  # follows from the configuration; results of before have none
)


def between(old: Path, new: Path) -> list[str]:
    """What differs between two run folders, clocks aside; a phrase each."""
    before, after = (_timeless(files.read_sealed(path / run_folder.RESULT)) for path in (old, new))
    phrases = [
        f"{key} was {before.get(key)}, is {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    rows = [[_timeless(row) for row in run_folder.metrics(path)] for path in (old, new)]
    if run_folder.experiment(old).eval.every_seconds:  # when it was scored in between is the clock's choice
        both = {row["step"] for row in rows[0]} & {row["step"] for row in rows[1]}
        rows = [[row for row in one if row["step"] in both] for one in rows]
    if rows[0] != rows[1]:
        first = next((a for a, b in zip(*rows, strict=False) if a != b), None)
        where = f"from step {first['step']} on" if first else "in their number"
        phrases.append(f"the rows of {run_folder.METRICS} {where}")
    return phrases


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(_ASIDE)}
