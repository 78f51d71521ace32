"""Texts and tables beside the images of a data set, as spreadsheets and other programs save them.

A text may be UTF-8, UTF-16 or UTF-32 with a mark at its start, UTF-16 without one, or of Windows'
Western code page (Latin-1). A CSV file may have commas, semicolons, tabs or bars.
"""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lightning_ad.errors import DataError, UserError
from lightning_ad.system.names import same_letters

MOST_ROWS = 10_000_000  # a few bytes of Parquet can stand for any number
DELIMITERS = ",;\t|"
MARKS = {  # at the start of a text; that of UTF-16 begins that of UTF-32
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
GUESSES = ("utf-8", "cp1252", "latin-1")  # the last one reads everything
LOOKED_AT = 4096  # bytes, of which zeros tell UTF-16 without a mark

Row = Mapping[str, str]
Version = tuple[int, int, int]  # of a file: when it was written, its size, its number


class Table(NamedTuple):
    """A table as it is in a file.

    Attributes:
        path: the file.
        columns: their names, in small letters.
        rows: the cells of each row by column, empty text for none.
        places: the place of each row in the file, for messages.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]
    places: Sequence[str]


def read_text(path: Path) -> str:
    """Reads a text in whatever encoding it was saved.

    Raises:
        DataError: naming the file, if it is no text.
    """
    data = path.read_bytes()
    for encoding in _encodings(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise DataError(f"{path} is no text: expected UTF-8, UTF-16 or Latin-1")


def _encodings(data: bytes) -> Sequence[str]:
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return [encoding]
    start = data[:LOOKED_AT]
    if b"\0" not in start:
        return GUESSES
    if start[1::2].count(0) > start[::2].count(0):
        return ["utf-16-le"]
    return ["utf-16-be"]


def read_table(path: Path) -> Table:
    """Reads a Parquet file by its suffix, or else a CSV file; once, as long as it does not change.

    Raises:
        UserError: for a Parquet table if pyarrow is not installed.
        DataError: naming the file, if it is no such table.
    """
    return _read(path, _version(path))


def _version(path: Path) -> Version:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=4)
def _read(path: Path, version: Version) -> Table:
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    return _read_csv(path)


def row_numbers(path: Path, column: str) -> dict[str, list[int]]:
    """Returns the numbers of the rows by their value in a column, with letters as `same_letters`.

    Raises what `read_table` does.
    """
    return _numbers_by_value(path, _version(path), column)


@lru_cache(maxsize=4)
def _numbers_by_value(path: Path, version: Version, column: str) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(_read(path, version).rows):
        numbers[same_letters(row.get(column, ""))].append(number)
    return dict(numbers)


def _read_csv(path: Path) -> Table:
    text = read_text(path)
    delimiter = _delimiter(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: list[str] = []
    rows: list[Row] = []
    places: list[str] = []
    try:
        for cells in lines:
            if not any(cells) or _names_delimiter(cells, delimiter):
                continue
            if not columns:
                columns = _column_names(cells)
                continue
            rows.append(_row(columns, cells))
            places.append(f"{path}, line {lines.line_num}")
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}") from error
    return Table(path, columns, rows, places)


def _delimiter(text: str) -> str:
    """Returns what parts the most columns in the first line; Excel may name it there."""
    lines = text.lstrip("\r\n").splitlines()
    first = lines[0] if lines else ""
    if first.lower().startswith("sep=") and len(first) == len("sep=;"):
        return first[-1]
    return max(DELIMITERS, key=first.count)


def _names_delimiter(cells: Sequence[str], delimiter: str) -> bool:
    return delimiter.join(cells).lower() == f"sep={delimiter}"


def _column_names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _row(columns: Sequence[str], cells: Sequence[str]) -> Row:
    row = dict.fromkeys(columns, "")
    row.update(zip(columns, cells, strict=False))
    row.pop("", None)
    return row


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"{path}: Parquet needs pyarrow (pip install pyarrow), or export it as CSV"
        ) from error
    try:
        with ParquetFile(path) as file:
            count = file.metadata.num_rows
            names = file.schema_arrow.names
            found = file.read().to_pylist() if count <= MOST_ROWS else []
    except Exception as error:  # of pyarrow, several kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read as Parquet ({reason})") from error
    if count > MOST_ROWS:
        raise DataError(f"{path} has {count} rows; more than {MOST_ROWS} are refused")
    columns = _column_names(names)
    rows: list[Row] = []
    places: list[str] = []
    for number, values in enumerate(found, start=1):
        rows.append(_row(columns, [_cell(value) for value in values.values()]))
        places.append(f"{path}, row {number}")
    return Table(path, columns, rows, places)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def name_below(folder: Path, name: str) -> str:
    """Returns a name that a table gives, with slashes where Windows has put backslashes."""
    if "\\" not in name or os.path.lexists(folder / name):
        return name
    return name.replace("\\", "/")
