"""`lightning-ad verify RUN`: whether a finished run's numbers come out of its checkpoint again."""

import argparse
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.reporting.provenance import differences
from lightning_ad.system.names import show
from lightning_ad.system.run_folder import RunFolder

TOLERANCE = 1e-6  # between machines, or kinds of device


def run(arguments: argparse.Namespace) -> int:
    """Verifies the run that is named."""
    return verify(arguments.run, arguments.flags)


def verify(path: Path, flags: Sequence[str] = ()) -> int:
    """Evaluates a run again, leaving its folder as it is, and compares with the recorded metrics.

    Args:
        path: the run's folder.
        flags: flags of `lightning-ad evaluate`, such as `--data.root`.

    Returns:
        The exit code: 1 if a metric differs by more than 1e-6, or if something else was measured; 0
        on other processes than the first, which alone compares.

    Raises:
        UsageError: if there is no finished run.
    """
    run = RunFolder.find(path)
    recorded = json.loads(run.metrics.read_text())
    found = _evaluated_again(run, flags)
    if found is None:
        return 0
    other = _differences_of_protocol(recorded["protocol"], found["protocol"])
    changed = _different(recorded["metrics"], found["metrics"], tolerance=0)
    wrong = _different(recorded["metrics"], found["metrics"], tolerance=TOLERANCE)
    show("")
    for line in other:
        show(f"differs: {line}")
    for name in changed:
        before = recorded["metrics"][name]
        show(f"{name:<16}  recorded {before!r}, now {found['metrics'].get(name)!r}")
    count = len(recorded["metrics"])
    if other or wrong:
        show(
            f"NOT CONFIRMED: {len(wrong)} of {count} metrics of {run.path} differ by more than "
            f"{TOLERANCE:g}"
        )
        return 1
    digits = f"within {TOLERANCE:g}" if changed else "to the last digit"
    show(f"confirmed: all {count} metrics of {run.path}, {digits}")
    return 0


def _evaluated_again(run: RunFolder, flags: Sequence[str]) -> dict[str, Any] | None:
    """Evaluates a run into a temporary folder of the first process.

    Returns:
        The content of its metrics.json; None on other processes, which cannot tell how long it is
        there.
    """
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()) as printed:
            again = evaluate([str(run.path), *flags, "--output", folder])
        if rank_zero_only.rank:
            return None
        table = printed.getvalue().partition("\nReport: ")[0]  # the report goes with the folder
        show(table)
        return json.loads(again.metrics.read_text())


def _differences_of_protocol(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = differences(recorded, found)
    if recorded["weights"] != found["weights"]:
        lines.append("weights: the checkpoint is not the one that was tested")
    return lines


def _different(
    recorded: Mapping[str, float | None], found: Mapping[str, float | None], tolerance: float
) -> list[str]:
    """Returns the names of the metrics that differ by more than a tolerance."""
    names: list[str] = []
    for name, value in recorded.items():
        if not _same(value, found.get(name), tolerance):
            names.append(name)
    return names


def _same(first: float | None, second: float | None, tolerance: float) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=0, abs_tol=tolerance)
