"""The tables of a run: predictions.csv, suspects.csv and skipped.csv."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_ad.data.checking import Fault
from lightning_ad.errors import DataError
from lightning_ad.methods.suspects import Suspect
from lightning_ad.system.files import replacing
from lightning_ad.system.spreadsheets import spreadsheet_text, text_of_spreadsheet, write_csv

COLUMNS = ["path", "label", "defect", "score", "p_value", "anomalous"]


class OptionalColumn(NamedTuple):
    """A column of predictions.csv that only some runs have.

    Attributes:
        field: of `ImageResult`.
        parse: converts the column's text to a value.
    """

    field: str
    parse: Callable[[str], float | str]


OPTIONAL_COLUMNS = {
    "area": OptionalColumn("area", float),
    "pixel_AUROC": OptionalColumn("pixel_auroc", float),
    "pixel_AP": OptionalColumn("pixel_ap", float),
    "map": OptionalColumn("map_path", text_of_spreadsheet),
    "nearest": OptionalColumn("nearest", text_of_spreadsheet),
}
VERDICTS = {
    (0, False): "passed",
    (0, True): "false alarm",
    (1, False): "missed",
    (1, True): "found",
}


@dataclass(frozen=True)
class ImageResult:
    """One row of predictions.csv.

    Attributes:
        path: the image file.
        label: 0 good, 1 anomalous.
        defect: the kind of defect, `good` for a good part.
        score: raw, higher is more anomalous.
        p_value: the probability that a good image scores at least this high, in (0, 1]; None if
            there is no calibration.
        anomalous: the verdict; None without a threshold.
        area: the share of the image's pixels above the pixel threshold, in [0, 1]; None without
            one.
        pixel_auroc: AUROC of the image's own pixels, in [0, 1]; None without a true outline.
        pixel_ap: average precision of the image's own pixels, in [0, 1]; None without a true
            outline.
        map_path: the anomaly map, relative to the run folder; None if none was written.
        nearest: the good patch nearest to the image's worst one, `<training image>@<row>,<column>`
            of the grid of features; None for methods that keep no patches.
    """

    path: str
    label: int
    defect: str
    score: float
    p_value: float | None = None
    anomalous: bool | None = None
    area: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    map_path: str | None = None
    nearest: str | None = None

    @property
    def verdict(self) -> str:
        """passed, false alarm, missed or found; empty without a threshold."""
        if self.anomalous is None:
            return ""
        return VERDICTS[self.label, self.anomalous]


def scores_of(rows: Iterable[ImageResult]) -> NDArray[np.float64]:
    """Returns the scores of the rows, in order."""
    return np.array([row.score for row in rows], np.float64)


def of_label(rows: Iterable[ImageResult], label: int) -> list[ImageResult]:
    """Returns the rows of good images (0) or of anomalous ones (1)."""
    return [row for row in rows if row.label == label]


def write_predictions(path: str | Path, rows: Sequence[ImageResult]) -> None:
    """Writes predictions.csv.

    Unknown values are empty; an optional column is there if any row has a value for it.
    """
    optional = _used_columns(rows)
    table = []
    for row in rows:
        values = [row.path, row.label, row.defect, row.score, row.p_value, row.anomalous]
        for name in optional:
            values.append(getattr(row, OPTIONAL_COLUMNS[name].field))
        table.append(values)
    _write_table(path, COLUMNS + optional, table)


def _used_columns(rows: Sequence[ImageResult]) -> list[str]:
    """Returns the optional columns that any row has a value for."""
    used = []
    for name, column in OPTIONAL_COLUMNS.items():
        if any(getattr(row, column.field) is not None for row in rows):
            used.append(name)
    return used


def read_predictions(path: str | Path) -> list[ImageResult]:
    """Reads the rows that `write_predictions` was given.

    Raises:
        DataError: if the file cannot be read, or does not hold predictions.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [_parse_row(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise DataError(f"cannot read the predictions {path}: {error}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} does not hold predictions (columns {', '.join(COLUMNS)}): {error}"
        ) from error


def _parse_row(row: dict[str, str]) -> ImageResult:
    optional = {}
    for name, column in OPTIONAL_COLUMNS.items():
        if row.get(name):
            optional[column.field] = column.parse(row[name])
    return ImageResult(
        path=text_of_spreadsheet(row["path"]),
        label=int(row["label"]),
        defect=text_of_spreadsheet(row["defect"]),
        score=float(row["score"]),
        p_value=float(row["p_value"]) if row["p_value"] else None,
        anomalous=row["anomalous"] == "true" if row["anomalous"] else None,
        **optional,
    )


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> None:
    """Writes the training images, the most suspicious first: path, score, trimmed."""
    _write_table(path, Suspect._fields, suspects)


def write_faults(path: Path, faults: Sequence[Fault]) -> None:
    """Writes the images that cannot be used: path, split, defect, reason."""
    rows = []
    for sample, reason in faults:
        rows.append((sample.path, sample.split, sample.defect, reason))
    _write_table(path, ("path", "split", "defect", "reason"), rows)


def _write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as file:
        write_csv(file, [header, *(list(map(_cell, row)) for row in rows)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return spreadsheet_text(value)
    return str(value)
