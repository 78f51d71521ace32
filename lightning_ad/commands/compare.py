"""`evaluate.py --compare RUN_A RUN_B`: two runs on the same test images."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.bootstrap import paired_difference
from lightning_ad.evaluation.catalogue import METRICS, oracle
from lightning_ad.reporting.provenance import differences
from lightning_ad.reporting.tables import ImageResult, read_predictions
from lightning_ad.system.run_folder import RunFolder


def compare(args: Sequence[str]) -> int:
    """Prints each metric of both runs; for those of images the difference, its 95 % interval and a p-value.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: where these are not two finished runs on the same images.
        DataError: where a run's predictions cannot be read.
    """
    if len(args) != 2:
        raise UsageError(
            f"--compare takes two runs; {len(args)} came: evaluate.py --compare runs/a runs/b"
        )
    runs = [RunFolder.find(Path(arg)) for arg in args]
    rows = [_by_name(read_predictions(run.predictions)) for run in runs]
    names = _same_images(rows, args)
    labels = np.array([rows[0][name].label for name in names])
    scores = [np.array([part[name].score for name in names]) for part in rows]
    written = [json.loads(run.metrics.read_text()) for run in runs]
    metrics = [part["metrics"] for part in written]
    print(f"A {runs[0].path}\nB {runs[1].path}\n{len(names)} test images\n")
    if odd := differences(*(part.get("protocol", {}) for part in written)):
        print(
            "These runs were measured differently, so that the numbers below are not of the same thing:"
        )
        print("\n".join(f"  {line}" for line in odd) + "\n")
    print(f"{'':<16}  {'A':>9}  {'B':>9}  {'B - A':>9}  {'95 % interval':>22}  {'p':>6}")
    for name in METRIC_NAMES:
        a, b = (m[name] for m in metrics)
        if a is None or b is None:
            print(f"{name:<16}  {'n/a':>9}  {'n/a':>9}")
            continue
        line = f"{name:<16}  {a:>9.6f}  {b:>9.6f}  {b - a:>+9.6f}"
        if name.startswith("image_"):
            found = paired_difference(METRICS[name], *scores, labels)
            line += f"  [{found.low:+.6f}, {found.high:+.6f}]  {found.p:>6.4f}"
        print(f"{line}  {oracle(name)}".rstrip())
    print(
        "\np: two-sided, over test sets drawn anew from these images; it knows nothing of other trainings (seeds)."
    )
    return 0


def _by_name(rows: Sequence[ImageResult]) -> dict[str, ImageResult]:
    """Rows by their paths within the folder that all of them share: a run may have been tested on another machine."""
    shared = os.path.commonpath([row.path for row in rows]) if len(rows) > 1 else ""
    return {os.path.relpath(row.path, shared) if shared else row.path: row for row in rows}


def _same_images(rows: Sequence[dict[str, ImageResult]], args: Sequence[str]) -> list[str]:
    first, second = rows
    if odd := sorted(first.keys() ^ second.keys()):
        where = args[0] if odd[0] in first else args[1]
        raise UsageError(
            f"these runs were tested on different images: {len(odd)} are in one alone, {odd[0]} in {where}"
        )
    if odd := [name for name in first if first[name].label != second[name].label]:
        raise UsageError(
            f"these runs do not agree on what is good: {odd[0]} and {len(odd) - 1} more"
        )
    return list(first)
