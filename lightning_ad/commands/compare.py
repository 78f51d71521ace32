"""`lightning-ad compare RUN_A RUN_B`: two runs on the same test images."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.bootstrap import paired_difference
from lightning_ad.evaluation.catalogue import METRICS, oracle
from lightning_ad.reporting.provenance import differences
from lightning_ad.reporting.tables import ImageResult, read_predictions
from lightning_ad.system.run_folder import RunFolder


def run(arguments: argparse.Namespace) -> None:
    """Compares the two runs that are named."""
    compare(arguments.first, arguments.second)


def compare(first: Path, second: Path) -> None:
    """Prints each metric of two runs, and the difference of those of images with its uncertainty.

    The uncertainty is a 95 % interval and a p-value.

    Raises:
        UsageError: if these are not two finished runs on the same images.
        DataError: if a run's predictions cannot be read.
    """
    runs = [RunFolder.find(first), RunFolder.find(second)]
    results = [_results_by_name(run) for run in runs]
    names = _same_images(*results, folders=(first, second))
    written = [json.loads(run.metrics.read_text()) for run in runs]
    print(f"A {runs[0].path}\nB {runs[1].path}\n{len(names)} test images\n")
    _print_differences_of_protocol(*written)
    print(f"{'':<16}  {'A':>9}  {'B':>9}  {'B - A':>9}  {'95 % interval':>22}  {'p':>6}")
    labels = np.array([results[0][name].label for name in names])
    scores = [_scores(result, names) for result in results]
    for name in METRIC_NAMES:
        values = [metrics["metrics"][name] for metrics in written]
        print(_metric_line(name, values, scores, labels))
    print(
        "\np: two-sided, over test sets drawn anew from these images; it knows nothing of other "
        "trainings (seeds)."
    )


def _results_by_name(run: RunFolder) -> dict[str, ImageResult]:
    """Reads a run's predictions, by the path of the image.

    Paths begin in the folder that all images share: the other run may have been tested elsewhere.
    """
    results = read_predictions(run.predictions)
    shared = ""
    if len(results) > 1:
        shared = os.path.commonpath([result.path for result in results])
    if not shared:
        return {result.path: result for result in results}
    return {os.path.relpath(result.path, shared): result for result in results}


def _same_images(
    first: dict[str, ImageResult], second: dict[str, ImageResult], folders: tuple[Path, Path]
) -> list[str]:
    """Returns the names of the images.

    Raises:
        UsageError: if they, or their labels, are not the same in both runs.
    """
    in_one_alone = sorted(first.keys() ^ second.keys())
    if in_one_alone:
        folder = folders[0] if in_one_alone[0] in first else folders[1]
        raise UsageError(
            f"these runs were tested on different images: {len(in_one_alone)} are in one alone, "
            f"{in_one_alone[0]} in {folder}"
        )
    disputed = [name for name in first if first[name].label != second[name].label]
    if disputed:
        raise UsageError(
            f"these runs do not agree on what is good: {disputed[0]} and {len(disputed) - 1} more"
        )
    return list(first)


def _print_differences_of_protocol(first: dict, second: dict) -> None:
    lines = differences(first.get("protocol", {}), second.get("protocol", {}))
    if not lines:
        return
    print("These runs were measured differently: their numbers below do not mean the same thing:")
    for line in lines:
        print(f"  {line}")
    print()


def _scores(results: dict[str, ImageResult], names: Sequence[str]) -> NDArray:
    return np.array([results[name].score for name in names])


def _metric_line(
    name: str, values: Sequence[float | None], scores: Sequence[NDArray], labels: NDArray
) -> str:
    first, second = values
    if first is None or second is None:
        return f"{name:<16}  {'n/a':>9}  {'n/a':>9}"
    line = f"{name:<16}  {first:>9.6f}  {second:>9.6f}  {second - first:>+9.6f}"
    if name.startswith("image_"):
        found = paired_difference(METRICS[name], *scores, labels)
        line += f"  [{found.low:+.6f}, {found.high:+.6f}]  {found.p:>6.4f}"
    return f"{line}  {oracle(name)}".rstrip()
