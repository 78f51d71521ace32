"""What a finished run has recorded, and in what it differs from what comes out again."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lightning_ad.errors import DataError
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.tables import ImageResult, read_predictions
from lightning_ad.system.run_folder import RunFolder

TOLERANCE = 1e-6  # of numbers in [0, 1], between machines or kinds of device
SCORE_TOLERANCE = 1e-4  # of scores and maps, as a share of the largest one
SECTIONS = ("metrics", "oracle", "intervals", "bounds", "details", "counts", "threshold")
SCORED = ("threshold",)  # sections in the unit of the scores
SCORES = ("score",)  # and columns
COUNTED = ("train", "test", "test_good", "test_anomalous", "test_left_out", "test_without_outline")
MISSING = "nothing"


class Difference(NamedTuple):
    """An entry that is recorded otherwise than it was found.

    Attributes:
        section: of metrics.json, or predictions.csv, or maps.
        name: of the entry, its keys with dots between them.
        recorded: as text.
        found: as text.
        small: whether it may come from another machine.
    """

    section: str
    name: str
    recorded: str
    found: str
    small: bool


class Record(NamedTuple):
    """What a tested run has written.

    Attributes:
        folder: of the run.
        content: of metrics.json.
        rows: of predictions.csv; None if the file is not there.
    """

    folder: RunFolder
    content: dict[str, Any]
    rows: list[ImageResult] | None

    @classmethod
    def read(cls, folder: RunFolder) -> "Record":
        """Reads a run.

        Raises:
            DataError: if its files do not hold what a run writes.
        """
        try:
            content = json.loads(folder.metrics.read_text())
            complete = isinstance(content["metrics"], dict) and isinstance(
                content["protocol"], dict
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder.metrics} is not what a run writes ({type(error).__name__}: {error})"
            ) from error
        if not complete:
            raise DataError(f"{folder.metrics} is not what a run writes: it has no metrics")
        rows = None
        if folder.predictions.is_file():
            rows = read_predictions(folder.predictions)
        return cls(folder, content, rows)


class Comparison(NamedTuple):
    """What two records have in common.

    Attributes:
        compared: what was compared.
        left_out: what was not, and why.
        differences: what differs.
    """

    compared: list[str]
    left_out: list[str]
    differences: list[Difference]


def compare_records(recorded: Record, found: Record) -> Comparison:
    """Compares all that can come out again: numbers, predictions and maps, not seconds or memory.

    A section that the recorded run does not have at all is left out, and said so: earlier versions
    wrote fewer. An entry that is missing in a section is a difference.
    """
    compared: list[str] = []
    left_out: list[str] = []
    differences: list[Difference] = []
    for section in SECTIONS:
        if section in recorded.content:
            compared.append(section)
            differences += _section_differences(section, recorded.content, found.content)
        elif section in found.content:
            left_out.append(f"{section} (not recorded)")
    if recorded.rows is None or found.rows is None:
        left_out.append("predictions.csv (not there)")
    else:
        compared.append(f"predictions.csv ({len(recorded.rows)} rows)")
        differences += _row_differences(recorded.rows, found.rows)
        if recorded.folder.maps.is_dir():
            compared.append("maps")
            differences += _map_differences(recorded, found)
        else:
            left_out.append("maps (not there)")
    for file in (recorded.folder.report, recorded.folder.suspects):
        if file.is_file():
            left_out.append(file.name)
    return Comparison(compared, left_out, differences)


def _section_differences(
    section: str, recorded: Mapping[str, Any], found: Mapping[str, Any]
) -> Iterator[Difference]:
    first = recorded[section]
    second = found.get(section, MISSING)
    if section == "counts" and isinstance(first, dict):
        first = {name: first[name] for name in COUNTED if name in first}
        second = {name: second[name] for name in COUNTED if name in second}
    for name, one, other in _different_leaves(first, second, ""):
        scale = _size(other) * SCORE_TOLERANCE if section in SCORED else TOLERANCE
        yield Difference(section, name, _text(one), _text(other), _near(one, other, scale))


def _different_leaves(first: Any, second: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields the name of each entry in which two values differ, and both values there."""
    ones = _entries(first)
    others = _entries(second)
    if ones is None or others is None:
        if first != second or type(first) is not type(second):
            yield name, first, second
        return
    for key in ones | others:
        below = f"{name}.{key}" if name else str(key)
        one = ones.get(key, MISSING)
        yield from _different_leaves(one, others.get(key, MISSING), below)


def _entries(value: Any) -> dict[Any, Any] | None:
    """Returns what a dictionary or a list holds; None for another value."""
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None


def _row_differences(
    recorded: Sequence[ImageResult], found: Sequence[ImageResult]
) -> Iterator[Difference]:
    section = "predictions.csv"
    if len(recorded) != len(found):
        rows = (f"{len(recorded)} rows", f"{len(found)} rows")
        yield Difference(section, "images", *rows, small=False)
        return
    largest = max((abs(row.score) for row in found), default=0.0)
    for first, second in zip(recorded, found, strict=True):
        one = {**asdict(first), "path": Path(first.path).name}
        other = {**asdict(second), "path": Path(second.path).name}
        for name, value, again in _different_leaves(one, other, ""):
            scale = largest * SCORE_TOLERANCE if name in SCORES else TOLERANCE
            small = _near(value, again, scale)
            label = f"{second.path} {name}"
            yield Difference(section, label, _text(value), _text(again), small)


def _map_differences(recorded: Record, found: Record) -> Iterator[Difference]:
    """Compares the maps of the images that both records have, in their order."""
    for row in found.rows or ():
        if row.map_path is None:
            continue
        first = recorded.folder.path / row.map_path
        second = found.folder.path / row.map_path
        if not first.is_file():
            yield Difference("maps", row.map_path, MISSING, "a map", small=False)
        elif first.read_bytes() != second.read_bytes():
            yield _difference_of_maps(row.map_path, first, second)


def _difference_of_maps(name: str, first: Path, second: Path) -> Difference:
    try:
        one = read_map(first)
    except DataError as error:
        return Difference("maps", name, str(error), "a map", small=False)
    other = read_map(second)
    if one.shape != other.shape:
        shapes = (str(list(one.shape)), str(list(other.shape)))
        return Difference("maps", name, *shapes, small=False)
    largest = float(other.abs().max())
    apart = float((one - other).abs().max())
    small = apart <= SCORE_TOLERANCE * largest
    return Difference("maps", name, f"values {apart:g} apart", f"up to {largest:g}", small)


def _text(value: Any) -> str:
    return MISSING if value is MISSING else repr(value)


def _near(first: Any, second: Any, tolerance: float) -> bool:
    for value in (first, second):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
    return math.isclose(first, second, rel_tol=0, abs_tol=tolerance)


def _size(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return abs(value)
