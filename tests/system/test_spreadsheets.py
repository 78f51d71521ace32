"""CSV as spreadsheets open it."""

import csv
import io

import pytest

from lightning_ad.system.spreadsheets import spreadsheet_text, text_of_spreadsheet, write_csv

FORMULAS = ['=HYPERLINK("http://x")', "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]
TEXTS = [
    "",
    "dent",
    "it's",
    "'quoted'",
    "''",
    "a=b",
    "\udccf\udcdd",
    "two\nlines",
    "a\rb",
    "'=1",
    '"',
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text):
    assert spreadsheet_text(text) == f"'{text}"


@pytest.mark.parametrize("text", [*FORMULAS, *TEXTS])
def test_every_text_comes_back(text):
    file = io.StringIO(newline="")
    write_csv(file, [["a", "b"], [spreadsheet_text(text), "1"]])
    file.seek(0)
    header, (cell, other) = csv.reader(file)
    assert header == ["a", "b"]
    assert text_of_spreadsheet(cell) == text
    assert other == "1"
