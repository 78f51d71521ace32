"""Files that are written whole or not at all."""

import json
import math

import pytest

from lightning_ad.system.files import replacing, write_json


def write_half(path):
    with replacing(path) as file:
        file.write("sec")
        raise ZeroDivisionError


def test_a_file_stays_until_the_next_is_complete(tmp_path):
    path = tmp_path / "folder/table.csv"
    with replacing(path) as file:
        file.write("first")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "first"
    with replacing(path) as file:
        file.write("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_json_without_numbers_that_it_does_not_know(tmp_path):
    path = tmp_path / "found.json"
    write_json(path, {"a": math.nan, "b": [1.5, math.inf, ("c", -math.inf)], "d": {"e": 2}})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None, ["c", None]], "d": {"e": 2}}
