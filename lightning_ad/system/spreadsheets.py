"""CSV files as spreadsheets open them: a text of the data is never computed."""

import csv
import re
from collections.abc import Sequence
from typing import TextIO

COMPUTED = (
    "=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20"  # a text that begins so may be taken for a formula
)
TO_QUOTE = re.compile(f"'*[{COMPUTED}]")
QUOTED = re.compile(f"''*[{COMPUTED}]")


def spreadsheet_text(text: str) -> str:
    """Returns a text for a cell of CSV; one that would be a formula gets a ' before it."""
    if TO_QUOTE.match(text):
        return f"'{text}"
    return text


def text_of_spreadsheet(cell: str) -> str:
    """Returns the text that `spreadsheet_text` was given."""
    if QUOTED.match(cell):
        return cell[1:]
    return cell


def write_csv(file: TextIO, rows: Sequence[Sequence[str]]) -> None:
    """Writes rows as CSV that reads as it was written, whatever is in the cells."""
    usual = csv.writer(file, lineterminator="\n")
    quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # A carriage return ends a line for readers, and csv does not put it in quotes.
        has_return = any("\r" in cell for cell in row)
        writer = quoting if has_return else usual
        writer.writerow(row)
