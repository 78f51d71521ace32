"""`lightning-ad verify RUN`: whether a finished run's numbers come out of its checkpoint again."""

import argparse
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.reporting.provenance import differences
from lightning_ad.reporting.record import (
    MISSING,
    TOLERANCE,
    Comparison,
    Difference,
    Record,
    compare_records,
)
from lightning_ad.system.names import show
from lightning_ad.system.run_folder import RunFolder

SHOWN = 10  # differences of a section that are printed


def run(arguments: argparse.Namespace) -> int:
    """Verifies the run that is named."""
    return verify(arguments.run, arguments.flags)


def verify(path: Path, flags: Sequence[str] = ()) -> int:
    """Evaluates a run again, leaving its folder as it is, and compares all that comes out again.

    Args:
        path: the run's folder.
        flags: flags of `lightning-ad evaluate`, such as `--data.root`.

    Returns:
        The exit code: 1 if a number differs by more than 1e-6, if one is missing, or if something
        else was measured; 0 on other processes than the first, which alone compares.

    Raises:
        UsageError: if there is no finished run.
        DataError: if the run's files do not hold what a run writes.
    """
    run = RunFolder.find(path)
    recorded = Record.read(run)
    with tempfile.TemporaryDirectory() as folder:
        found = _evaluated_again(run, flags, folder)
        if found is None:
            return 0
        comparison = compare_records(recorded, found)
    protocol = _differences_of_protocol(recorded.content["protocol"], found.content["protocol"])
    show("")
    for line in protocol:
        show(f"differs: {line}")
    _print_differences(comparison.differences)
    return _conclude(recorded, comparison, confirmed=not protocol)


def _evaluated_again(run: RunFolder, flags: Sequence[str], folder: str) -> Record | None:
    """Evaluates a run into a folder of the first process.

    Returns:
        What was found; None on other processes, which cannot tell how long the folder is there.
    """
    with redirect_stdout(io.StringIO()) as printed:
        again = evaluate([str(run.path), *flags, "--output", folder])
    if rank_zero_only.rank:
        return None
    table = printed.getvalue().partition("\nReport: ")[0]  # the report goes with the folder
    show(table)
    return Record.read(again)


def _differences_of_protocol(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = differences(recorded, found)
    if recorded.get("weights") != found["weights"]:
        lines.append("weights: the checkpoint is not the one that was tested")
    return lines


def _print_differences(found: Sequence[Difference]) -> None:
    """Prints each difference on a line, not more than `SHOWN` of a section."""
    counts: dict[str, int] = {}
    for section, name, recorded, again, _ in found:
        counts[section] = counts.get(section, 0) + 1
        if counts[section] <= SHOWN:
            shown = name if section == "metrics" else f"{section}: {name}"
            show(f"{shown:<16}  recorded {recorded}, now {again}")
    for section, count in counts.items():
        if count > SHOWN:
            show(f"{section}: {count - SHOWN} more differences")


def _conclude(recorded: Record, comparison: Comparison, confirmed: bool) -> int:
    """Prints what was compared and whether it is confirmed; returns the exit code."""
    large = [difference for difference in comparison.differences if not difference.small]
    path = recorded.folder.path
    count = len(recorded.content["metrics"])
    show(f"compared: {', '.join(comparison.compared)}")
    if comparison.left_out:
        show(f"not compared: {', '.join(comparison.left_out)}")
    if large or not confirmed:
        wrong = [difference for difference in large if difference.section == "metrics"]
        count += sum(difference.recorded == MISSING for difference in wrong)
        show(
            f"NOT CONFIRMED: {len(wrong)} of {count} metrics of {path} differ by more than "
            f"{TOLERANCE:g}{_others(large)}"
        )
        return 1
    digits = f"within {TOLERANCE:g}" if comparison.differences else "to the last digit"
    show(f"confirmed: all {count} metrics of {path}, {digits}")
    return 0


def _others(large: Sequence[Difference]) -> str:
    """Names the sections that differ beside the metrics."""
    sections = {difference.section: None for difference in large if difference.section != "metrics"}
    return f"; others: {', '.join(sections)}" if sections else ""
