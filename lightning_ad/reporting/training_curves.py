"""What was logged in training, read back from the CSV files of a run."""

import csv
from collections.abc import Container
from pathlib import Path

from lightning_ad.reporting.run_results import Line

Curves = dict[str, dict[int, float]]  # the value of each step, by name


def training_curves(folder: Path, leave_out: Container[str] = ()) -> dict[str, Line]:
    """Returns the steps and values of everything that was logged in training, by name.

    If a run was resumed, the steps that it repeated replace the earlier ones.

    Args:
        folder: that of the CSV logger, with a folder `version_<n>` for each start of the run.
        leave_out: names of quantities that are not of the training, such as the test's metrics.
    """
    curves: Curves = {}
    for path in sorted(folder.glob("version_*/metrics.csv"), key=_version):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        first = min((int(row["step"]) for row in rows), default=0)
        _forget_from(curves, first)
        for row in rows:
            _add(curves, row, leave_out)
    lines = {}
    for name, curve in sorted(curves.items()):
        steps = [float(step) for step in curve]
        lines[name] = (steps, list(curve.values()))
    return lines


def _version(path: Path) -> int:
    return int(path.parent.name.rpartition("_")[2])


def _forget_from(curves: Curves, first: int) -> None:
    """Removes the values from step `first` on."""
    for curve in curves.values():
        for step in list(curve):
            if step >= first:
                del curve[step]


def _add(curves: Curves, row: dict[str, str], leave_out: Container[str]) -> None:
    step = int(row["step"])
    for name in row.keys() - {"step", "epoch"}:
        if row[name] and name not in leave_out:
            curves.setdefault(name, {})[step] = float(row[name])
