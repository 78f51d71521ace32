"""Texts and tables as other programs save them: the same cells, or one sentence."""

import csv
import io
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_ad.data.layouts import find_samples
from lightning_ad.data.tables import read_table, read_text, row_numbers
from lightning_ad.errors import DataError, UserError

ROWS = [["path", "defect"], ["a b.png", "Größe, 3 €; |x|"], ["b.png", 'Kratzer "tief"\nzwei']]


def saved(delimiter, encoding, ends="\r\n", head=""):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=ends).writerows(ROWS)
    return (head + file.getvalue()).encode(encoding)


SAVED = {
    "UTF-8": saved(",", "utf-8"),
    "UTF-8 with a mark": saved(",", "utf-8-sig"),
    "Excel, Western Windows": saved(";", "cp1252"),
    "Excel, Unicode text": saved("\t", "utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + saved("\t", "utf-16-be"),
    "UTF-16 without a mark": saved(",", "utf-16-le"),
    "UTF-16 without a mark, big end first": saved(",", "utf-16-be"),
    "UTF-32": saved(",", "utf-32"),
    "Excel's own first line": saved(";", "cp1252", head="sep=;\r\n"),
    "bars, and empty lines": saved("|", "utf-8", "\n", head="\n"),
}


@pytest.mark.parametrize("name", SAVED)
def test_the_same_cells_come_out(tmp_path, name):
    path = tmp_path / "samples.csv"
    path.write_bytes(SAVED[name])
    table = read_table(path)
    assert table.columns == ROWS[0]
    assert [list(row.values()) for row in table.rows] == ROWS[1:]
    assert row_numbers(path, "path") == {"a b.png": [0], "b.png": [1]}


def test_a_place_is_the_line_in_the_file(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text("sep=,\n\nPath , Split,\na.png,train,,,more\n\n,,\nb.png\n")
    table = read_table(path)
    assert table.columns == ["path", "split", ""]
    assert [dict(row) for row in table.rows] == [
        {"path": "a.png", "split": "train"},
        {"path": "b.png", "split": ""},
    ]
    assert [place.rpartition(", ")[2] for place in table.places] == ["line 4", "line 7"]


def test_a_table_that_has_changed_is_read_again(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text("path\na\n")
    assert row_numbers(path, "path") == {"a": [0]}
    path.write_text("path\nbb\n")
    assert row_numbers(path, "path") == {"bb": [0]}


REFUSED = {
    "samples.csv": (b"path,split\n" + b"x" * 140_000, "line 2: field larger than field limit"),
    "nul.csv": (b"path,split\n" + b"a" * 5000 + b"\0,b\n", "is no text"),
    "odd.csv": (b"\xff\xfea", "is no text"),
    "samples.parquet": (b"PAR1 and nothing else PAR1", "cannot be read as Parquet"),
    "empty.parquet": (b"", "cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_one_sentence(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    content, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_table(path)


def test_backslashes_are_slashes_and_lead_nowhere_else(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text("path,split,label\nc\\a.png,train,0\nodd\\name.png,test,0\n")
    (tmp_path / "odd\\name.png").touch()
    found = [sample.path for sample in find_samples("table", tmp_path, None, {})]
    assert sorted(found) == [f"{tmp_path}/c/a.png", f"{tmp_path}/odd\\name.png"]
    path.write_text("path,split,label\n..\\a.png,train,0\n")
    with pytest.raises(DataError, match=r"line 2: \.\./a\.png lies outside"):
        find_samples("table", tmp_path, None, {})


FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None)
PIECES = st.lists(
    st.sampled_from([b"path", b"split", b"label", b",", b";", b"\t", b"\n", b"\r", b'"', b"\0"])
    | st.binary(max_size=3),
    max_size=12,
).map(b"".join)


@FUZZ
@given(PIECES)
def test_any_bytes_are_a_table_or_one_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    path = folder / "samples.csv"
    path.write_bytes(content)
    with suppress(UserError):
        read_text(path)
    with suppress(UserError):
        find_samples("table", folder, None, {})
