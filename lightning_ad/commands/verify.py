"""`evaluate.py --verify RUN`: whether a finished run's numbers come out of its checkpoint again."""

import io
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.errors import UsageError
from lightning_ad.reporting.provenance import differences
from lightning_ad.system.run_folder import RunFolder

TOLERANCE = 1e-6  # between machines, or kinds of device


def verify(args: Sequence[str]) -> int:
    """Evaluates a run again, leaving its folder as it is, and compares the metrics with the recorded ones.

    Args:
        args: the run's folder, and flags of `evaluate.py` (--data.root, say).

    Returns:
        The exit code: 1 where a number differs by more than 1e-6, or what was measured is not the same.

    Raises:
        UsageError: where no run is named, or it is unfinished.
    """
    if not args or args[0].startswith("-"):
        raise UsageError("evaluate.py --verify RUN: name the folder of a finished run")
    run = RunFolder.find(Path(args[0]))
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()) as said:
            again = evaluate([str(run.path), *args[1:], "--output", folder])
        print(said.getvalue().partition("\nReport: ")[0])  # which goes with the folder
        recorded, found = (json.loads(path.read_text()) for path in (run.metrics, again.metrics))
    other = differences(recorded["protocol"], found["protocol"])
    if recorded["protocol"]["weights"] != found["protocol"]["weights"]:
        other.append("weights: the checkpoint is not the one that was tested")
    changed = [
        name
        for name, value in recorded["metrics"].items()
        if not _same(value, found["metrics"].get(name), 0)
    ]
    wrong = [
        name
        for name in changed
        if not _same(recorded["metrics"][name], found["metrics"].get(name), TOLERANCE)
    ]
    print()
    for line in other:
        print(f"differs: {line}")
    for name in changed:
        print(
            f"{name:<16}  recorded {recorded['metrics'][name]!r}, now {found['metrics'].get(name)!r}"
        )
    count = len(recorded["metrics"])
    if other or wrong:
        print(
            f"NOT CONFIRMED: {len(wrong)} of {count} metrics of {run.path} differ by more than {TOLERANCE:g}"
        )
        return 1
    digits = f"within {TOLERANCE:g}" if changed else "to the last digit"
    print(f"confirmed: all {count} metrics of {run.path}, {digits}")
    return 0


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
