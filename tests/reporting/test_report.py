import math
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from made_up_results import made_up_images, made_up_results

from lightning_ad.errors import DataError
from lightning_ad.evaluation.catalogue import METRICS
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.html.report import write_report
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.tables import ImageResult

ODD_PATHS = [
    'a, "b".png',
    "ünï/码 'c'.png",
    "<script>alert(1)</script>.png",
    "two\nlines.png",
    "back\\slash $title.png",
]
PIXEL_METRICS = [name for name in METRICS if name.startswith("pixel_")]


def page_of(images, **changes):
    """The text of the report on some images; `changes` are of its results."""
    path = images.folder / "report.html"
    write_report(path, made_up_results(images.rows, **changes), images)
    assert not list(images.folder.glob(".*")), "the temporary file is still there"
    return path.read_text(encoding="utf-8")


def test_report_holds_everything_and_loads_nothing(tmp_path):
    images = made_up_images(tmp_path, len(ODD_PATHS), paths=ODD_PATHS)
    page = page_of(images, config="url: https://example.org")
    for name in METRICS:
        assert f"<code>{name}</code>" in page
    for row in images.rows:
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
    images = made_up_images(tmp_path, 9)
    shown = re.findall(r'<figcaption title="([^"]*)"', page_of(images).partition('id="cards"')[2])
    assert shown == [row.path for row in sorted(images.rows, key=lambda row: -row.score)]


def test_size_for_600_images(tmp_path):
    assert len(page_of(made_up_images(tmp_path, 60, size=256))) * 10 < 20_000_000


def test_speckled_masks_do_not_burst_the_report(tmp_path):
    images = made_up_images(tmp_path, 6, size=256)
    speckles = np.random.default_rng(0).random((256, 256)) > 0.5
    speckled = replace(images, read=lambda row: (images.read(row)[0], speckles))
    assert len(page_of(speckled)) * 100 < 20_000_000


@pytest.mark.parametrize("label", [0, 1])
def test_one_kind_alone(tmp_path, label):
    images = made_up_images(tmp_path, 8)
    images = replace(images, rows=[row for row in images.rows if row.label == label])
    metrics = dict.fromkeys(METRICS, math.nan)
    page = page_of(images, metrics=metrics, plots={}, training={})
    assert page.count('<b class="none">n/a</b>') == len(METRICS)
    reason = ["<em>no anomalous images", "<em>no good images"][label]
    assert page.count(reason) == len(METRICS)
    assert "nothing to separate" in page


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_images_without_maps_masks_or_verdicts(tmp_path, number):
    rows = [ImageResult(f"{i}.png", i, ["good", "x"][i], 1.0) for i in range(number)]
    empty = np.zeros((300, 40, 3), np.uint8), np.zeros((300, 40), bool)
    metrics = {name: 1.0 for name in METRICS if name not in PIXEL_METRICS}
    page = page_of(RunImages(rows, lambda row: empty, tmp_path), metrics=metrics)
    assert page.count("no true outlines") == (len(PIXEL_METRICS) if number == 2 else 0)
    assert 'aria-label="heat map"><use href' not in page


def test_a_metric_that_the_report_does_not_know_has_a_card(tmp_path):
    added = {"pixel_AUPRO_1.00": 0.8125, "latency_ms": 12.5, "image_<odd>": 0.25}
    page = page_of(
        made_up_images(tmp_path, 4),
        metrics={**dict.fromkeys(METRICS, 0.9), **added},
        intervals={"pixel_AUPRO_1.00": (0.7, 0.9)},
    )
    levels = page.partition('class="levels"')[2].partition("</header>")[0].split("<h2>")
    assert "<h3>AUPRO 1.00</h3><b>0.8125</b>" in levels[2]
    assert "95 % interval 0.700 to 0.900" in levels[2]
    assert "<h3>latency ms</h3><b>12.50</b>" in levels[3]
    assert "<code>image_&lt;odd&gt;</code>" in levels[1]


def test_a_failed_report_leaves_the_old_one(tmp_path):
    (tmp_path / "report.html").write_text("old")
    rows = [ImageResult("a", 0, "good", 1.0, map_path="gone.png")]
    with pytest.raises(DataError):
        page_of(RunImages(rows, None, tmp_path))
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_threshold_is_drawn_where_it_is(tmp_path):
    images = made_up_images(tmp_path, 9)
    scores = sorted(row.score for row in images.rows)
    between = Threshold((scores[4] + scores[5]) / 2, None, "number", "a number")
    assert "called anomalous above" in page_of(images, threshold=between)
    beyond = replace(between, image=scores[-1] + 100)
    assert "called anomalous above" not in page_of(images, threshold=beyond)


def test_the_table_of_defects_has_the_metrics_that_are_known(tmp_path):
    images = made_up_images(tmp_path, 4)
    details = {
        "by_defect": {"hole": {"image_AUROC": 0.625, "pixel_AP": math.nan}},
        "by_defect_intervals": {"hole": {"image_AUROC": (0.5, 0.75)}},
    }
    table = page_of(images, details=details).partition("<table>")[2].partition("</table>")[0]
    assert "image AUROC" in table
    assert "pixel AP" not in table
    good, hole = table.partition("<tbody>")[2].split("</tr>")[:2]
    assert good.startswith("<tr><th>good</th><td>2</td><td>1 (50%)</td>")
    assert '<td>0.6250<small title="95 % interval">0.500 to 0.750</small></td>' in hole


def test_an_infinite_score_is_a_number_for_the_page(tmp_path):
    images = made_up_images(tmp_path, 3)
    rows = [replace(images.rows[0], score=math.inf), *images.rows[1:]]
    page = page_of(replace(images, rows=rows))
    assert 'data-score="Infinity"' in page
    assert 'data-score="inf"' not in page
