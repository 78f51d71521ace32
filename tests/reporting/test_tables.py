from dataclasses import replace

import pytest

from lightning_ad.errors import DataError
from lightning_ad.reporting.tables import ImageResult, read_predictions, write_predictions

ODD_PATHS = ['a, "b".png', "ünï/码 'c'.png", "two\nlines.png", "\udcff not UTF-8.png"]


def odd_rows():
    rows = []
    for i, path in enumerate(ODD_PATHS):
        p_value = [None, 1e-9][i % 2]
        anomalous = [None, True, False][i % 3]
        rows.append(ImageResult(path, i % 2, 'a "kind", odd', 0.1 + i / 3, p_value, anomalous))
    return rows


def header(path):
    return path.read_bytes().splitlines()[0].decode()


def test_predictions_come_back(tmp_path):
    path = tmp_path / "run" / "predictions.csv"
    write_predictions(path, odd_rows())
    assert read_predictions(path) == odd_rows()
    assert header(path) == "path,label,defect,score,p_value,anomalous"


def test_optional_columns_are_there_if_any_row_has_a_value(tmp_path):
    path = tmp_path / "predictions.csv"
    rows = odd_rows()
    rows[1] = replace(rows[1], area=0.25, map_path="maps/1,2.png", nearest="0.png@3,4")
    rows[2] = replace(rows[2], pixel_auroc=0.5)
    write_predictions(path, rows)
    assert read_predictions(path) == rows
    assert header(path).endswith(",anomalous,area,pixel_AUROC,map,nearest")


def test_bad_predictions_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\nx,1\n")
    with pytest.raises(DataError, match=r"a\.csv.*defect"):
        read_predictions(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"b\.csv"):
        read_predictions(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("label", "anomalous", "verdict"),
    [
        (0, None, ""),
        (0, False, "passed"),
        (0, True, "false alarm"),
        (1, False, "missed"),
        (1, True, "found"),
    ],
)
def test_verdicts(label, anomalous, verdict):
    assert ImageResult("a", label, "x", 1.0, anomalous=anomalous).verdict == verdict
