"""`lightning-ad compare RUN_A RUN_B`: two runs on the same test images."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.bootstrap import paired_difference
from lightning_ad.evaluation.catalogue import METRICS, oracle
from lightning_ad.reporting.provenance import differences
from lightning_ad.reporting.tables import ImageResult, read_predictions
from lightning_ad.system.names import same_letters, show
from lightning_ad.system.run_folder import RunFolder


class _Tested(NamedTuple):
    """A finished run that is compared.

    Attributes:
        folder: of the run.
        results: of each test image, by its name.
        summary: the content of metrics.json.
    """

    folder: RunFolder
    results: dict[str, ImageResult]
    summary: dict[str, Any]

    def scores(self, names: Sequence[str]) -> NDArray:
        return np.array([self.results[name].score for name in names])

    def labels(self, names: Sequence[str]) -> NDArray:
        return np.array([self.results[name].label for name in names])


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
    a = _read(first)
    b = _read(second)
    names = _same_images(a, b)
    show(f"A {a.folder.path}\nB {b.folder.path}\n{len(names)} test images\n")
    _print_differences_of_protocol(a, b)
    show(f"{'':<16}  {'A':>9}  {'B':>9}  {'B - A':>9}  {'95 % interval':>22}  {'p':>6}")
    for metric in METRIC_NAMES:
        show(_metric_line(metric, a, b, names))
    show(
        "\np: two-sided, over test sets drawn anew from these images; it knows nothing of other "
        "trainings (seeds)."
    )


def _read(path: Path) -> _Tested:
    folder = RunFolder.find(path)
    results = read_predictions(folder.predictions)
    return _Tested(folder, _by_name(results), json.loads(folder.metrics.read_text()))


def _by_name(results: Sequence[ImageResult]) -> dict[str, ImageResult]:
    """Returns results by the path of the image in the folder that all images share.

    The other run may have been tested on another machine.
    """
    shared = ""
    if len(results) > 1:
        shared = os.path.commonpath([result.path for result in results])
    named: dict[str, ImageResult] = {}
    for result in results:
        name = os.path.relpath(result.path, shared) if shared else result.path
        named[same_letters(name)] = result
    return named


def _same_images(a: _Tested, b: _Tested) -> list[str]:
    """Returns the names of the images.

    Raises:
        UsageError: if they, or their labels, are not the same in both runs.
    """
    in_one_alone = sorted(a.results.keys() ^ b.results.keys())
    if in_one_alone:
        tested = a if in_one_alone[0] in a.results else b
        raise UsageError(
            f"these runs were tested on different images: {len(in_one_alone)} are in one alone, "
            f"{in_one_alone[0]} in {tested.folder.path}"
        )
    disputed = [name for name in a.results if a.results[name].label != b.results[name].label]
    if disputed:
        raise UsageError(
            f"these runs do not agree on what is good: {disputed[0]} and {len(disputed) - 1} more"
        )
    return list(a.results)


def _print_differences_of_protocol(a: _Tested, b: _Tested) -> None:
    lines = differences(a.summary.get("protocol", {}), b.summary.get("protocol", {}))
    if not lines:
        return
    show("These runs were measured differently: their numbers below do not mean the same thing:")
    for line in lines:
        show(f"  {line}")
    show("")


def _metric_line(metric: str, a: _Tested, b: _Tested, names: Sequence[str]) -> str:
    before = a.summary["metrics"].get(metric)
    after = b.summary["metrics"].get(metric)
    if before is None or after is None:
        known = ["n/a" if value is None else f"{value:.6f}" for value in (before, after)]
        return f"{metric:<16}  {known[0]:>9}  {known[1]:>9}"
    line = f"{metric:<16}  {before:>9.6f}  {after:>9.6f}  {after - before:>+9.6f}"
    if metric.startswith("image_"):
        found = paired_difference(
            METRICS[metric], a.scores(names), b.scores(names), a.labels(names)
        )
        line += f"  [{found.low:+.6f}, {found.high:+.6f}]  {found.p:>6.4f}"
    return f"{line}  {oracle(metric)}".rstrip()
