import math
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from scipy import ndimage

from lightning_ad.errors import DataError
from lightning_ad.evaluation import METRIC_NAMES as METRICS
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.html.cards import colour_scale
from lightning_ad.reporting.html.report import PLOTS, write_report
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult, read_predictions, write_predictions

ODD = [
    'a, "b".png',
    "ünï/码 'c'.png",
    "<script>alert(1)</script>.png",
    "two\nlines.png",
    "back\\slash $title.png",
]


def results(rows, **changes):
    curve = ([0.0, 0.1, 1.0], [0.0, 0.9, 1.0])
    filled = RunResults(
        title="patchcore-<b>mtd</b>",
        metrics=dict.fromkeys(METRICS, 0.9),
        rows=rows,
        plots=dict.fromkeys(PLOTS, curve),
        training={"train/<loss>": ([0.0, 1.0, 2.0], [3.0, 2.0, math.nan])},
        facts={"method": "A & B"},
        config="a: <b>",
    )
    return replace(filled, **changes)


def run(folder, number, size=64, paths=None):
    """Rows with maps on disk, and the pictures that belong to them."""
    rng = np.random.default_rng(0)
    rows, pictures = [], {}
    for i in range(number):
        path = paths[i] if paths else f"/data/test/{i:03}.png"
        map = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4).astype(np.float32)
        write_map(folder / f"maps/{i}.png", torch.from_numpy(map))
        label = i % 2
        rows.append(
            ImageResult(
                path,
                label,
                ["good", "hole"][label],
                float(map.max()),
                0.5,
                bool(i % 3),
                f"maps/{i}.png",
            )
        )
        mask = (map > 0.8 * map.max()) & bool(label)
        pictures[path] = rng.integers(0, 256, (size, size, 3), dtype=np.uint8), mask
    return rows, lambda row: pictures[row.path]


def written(folder, results, picture):
    write_report(folder / "report.html", results, picture, folder)
    assert not list(folder.glob(".*")), "the temporary file is still there"
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("maps", [False, True])
def test_predictions_come_back(tmp_path, maps):
    rows = [
        ImageResult(
            path,
            i % 2,
            'a "kind", odd',
            0.1 + i / 3,
            [None, 1e-9][i % 2],
            [None, True, False][i % 3],
        )
        for i, path in enumerate(ODD)
    ]
    if maps:
        rows[1] = replace(rows[1], map_path="maps/1,2.png")
    write_predictions(tmp_path / "run" / "predictions.csv", rows)
    assert read_predictions(tmp_path / "run" / "predictions.csv") == rows
    header = (tmp_path / "run" / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "path,label,defect,score,p_value,anomalous" + ",map" * maps


def test_bad_predictions_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\nx,1\n")
    with pytest.raises(DataError, match=r"a\.csv.*defect"):
        read_predictions(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"b\.csv"):
        read_predictions(tmp_path / "b.csv")


def test_report_holds_everything_and_loads_nothing(tmp_path):
    rows, picture = run(tmp_path, len(ODD), paths=ODD)
    page = written(tmp_path, results(rows, config="url: https://example.org"), picture)
    for name in METRICS:
        assert name in page
    for row in rows:
        assert row.path in unescape(page)
    assert "<script>alert" not in page
    assert "<b>mtd" not in page
    assert "train/&lt;loss&gt;" in page
    assert not re.search(r"""(src|href|url|import|action)\s*[=(]\s*["']?\s*(https?:|//)""", page)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()
    used = set(re.findall(r'<use[^>]* href="#(\w+)"', page))
    assert used <= set(re.findall(r'id="(\w+)"', page))
    ids = re.findall(r'\bid="(\w+)"', page)
    assert len(ids) == len(set(ids))


def test_gallery_is_sorted_by_score(tmp_path):
    rows, picture = run(tmp_path, 9)
    page = written(tmp_path, results(rows), picture)
    shown = re.findall(r'<figcaption title="([^"]*)"', page.partition('id="cards"')[2])
    assert shown == [r.path for r in sorted(rows, key=lambda r: -r.score)]


def test_size_for_600_images(tmp_path):
    rows, picture = run(tmp_path, 60, size=256)
    size = len(written(tmp_path, results(rows), picture))
    assert size * 10 < 20_000_000


@pytest.mark.parametrize("label", [0, 1])
def test_one_kind_alone(tmp_path, label):
    rows, picture = run(tmp_path, 8)
    rows = [r for r in rows if r.label == label]
    page = written(
        tmp_path,
        results(rows, metrics=dict.fromkeys(METRICS, math.nan), plots={}, training={}),
        picture,
    )
    assert page.count('<b class="none">n/a</b>') == 8
    assert page.count(["<em>no anomalous images", "<em>no good images"][label]) == 8
    assert "nothing to tell apart" in page


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_images_without_maps_masks_or_verdicts(tmp_path, number):
    rows = [ImageResult(f"{i}.png", i, ["good", "x"][i], 1.0) for i in range(number)]
    empty = np.zeros((300, 40, 3), np.uint8), np.zeros((300, 40), bool)
    metrics = dict.fromkeys(METRICS[:3], 1.0)
    page = written(tmp_path, results(rows, metrics=metrics), lambda row: empty)
    assert page.count("no true outlines") == (5 if number == 2 else 0)
    assert "heat map&quot;" not in page


def test_a_failed_report_leaves_the_old_one(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(DataError):
        written(tmp_path, results([ImageResult("a", 0, "good", 1.0, map_path="gone.png")]), None)
    assert (tmp_path / "report.html").read_text() == "old"


def test_colour_scale(tmp_path):
    for name, value in {"a": 1.0, "b": 5.0}.items():
        write_map(
            tmp_path / f"{name}.png",
            torch.tensor([[value, value], [value, value + 1]]).repeat_interleave(8, 0),
        )
    rows = [
        ImageResult("a", 0, "good", 1.0, map_path="a.png"),
        ImageResult("b", 1, "x", 6.0, map_path="b.png"),
    ]
    assert colour_scale(rows, tmp_path) == (1.0, 6.0)
    assert colour_scale([], tmp_path) == (0.0, 1.0)


def test_the_limit_is_drawn_where_it_is(tmp_path):
    rows, picture = run(tmp_path, 9)
    scores = sorted(r.score for r in rows)
    between = Threshold((scores[4] + scores[5]) / 2, None, "number", "a number")
    assert "called anomalous above" in written(tmp_path, results(rows, threshold=between), picture)
    beyond = replace(between, image=scores[-1] + 100)
    assert "called anomalous above" not in written(
        tmp_path, results(rows, threshold=beyond), picture
    )


def test_an_endless_score_is_a_number_for_the_page(tmp_path):
    rows, picture = run(tmp_path, 3)
    page = written(tmp_path, results([replace(rows[0], score=math.inf), *rows[1:]]), picture)
    assert 'data-score="Infinity"' in page
    assert 'data-score="inf"' not in page


def test_speckled_masks_do_not_burst_the_report(tmp_path):
    rows, picture = run(tmp_path, 6, size=256)
    speckles = np.random.default_rng(0).random((256, 256)) > 0.5
    size = len(written(tmp_path, results(rows), lambda row: (picture(row)[0], speckles)))
    assert size * 100 < 20_000_000
