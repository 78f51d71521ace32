"""Refuses numbers that no setting of a run can mean: infinite, no number, or of no size at all."""

import math
from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace

from lightning_ad.errors import UsageError

SMALLEST = 1e-30  # apart from 0; single precision ends at 1e-38
LARGEST = 2.0**62  # what counts and sizes are kept in
OWN = "lightning_ad"


def check_numbers(config: Namespace) -> None:
    """Raises UsageError for a number that cannot be meant, by its key.

    Arguments of other packages' classes (callbacks, loggers, optimizers) are theirs to judge.
    """
    for key, value in _numbers(config, ""):
        size = abs(value)
        if not math.isfinite(size) or size > LARGEST:
            raise UsageError(f"{key}: expected a finite number of usual size, got {value}")
        if 0 < size < SMALLEST:
            raise UsageError(f"{key}: expected 0 or at least {SMALLEST:g}, got {value}")


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yields the numbers within nested settings by their dotted keys."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield key, value
    for name, inner in _parts(value):
        yield from _numbers(inner, f"{key}.{name}" if key else name)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        if str(value.get("class_path", OWN)).startswith(OWN):
            yield from value.items()
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield str(number), inner
