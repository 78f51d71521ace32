"""The report as a browser shows it: slider, filters, enlarging, keys, and its address."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from scipy import ndimage
from scripts import PATIENCE

from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.html.report import write_report
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's /dev/shm is often too small
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=2000",
]
SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.2, 0.9, 0.35, 1.5])
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
DEFECTS = ["good"] * 4 + ["hole", "hole", "scratch", "scratch"]
LIMIT = 0.4

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium or Chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    rows, pictures = [], {}
    for i, (score, label, defect) in enumerate(zip(SCORES, LABELS, DEFECTS, strict=True)):
        map = ndimage.gaussian_filter(rng.normal(size=(48, 48)), 4).astype(np.float32)
        write_map(folder / f"{i}.png", torch.from_numpy(map))
        called = bool(score > LIMIT)
        rows.append(
            ImageResult(f"/data/{i}.png", int(label), defect, float(score), 0.5, called, f"{i}.png")
        )
        pictures[f"/data/{i}.png"] = (
            rng.integers(0, 256, (48, 48, 3), np.uint8),
            (map > 0.05) & bool(label),
        )
    limit = Threshold(LIMIT, None, "number", "given")
    metrics = dict.fromkeys(METRIC_NAMES, 0.9)
    results = RunResults("a", "run", metrics, rows, {}, {}, {}, "", threshold=limit)
    images = RunImages(rows, lambda row: pictures[row.path], folder)
    write_report(folder / "report.html", results, images)
    return folder / "report.html"


def shown(page, tmp_path, address="", script="", more=()):
    """The page's elements after its own scripts, and then `script`, have run."""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *FLAGS, *more, profile, "--dump-dom", f"{copy.as_uri()}#{address}"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout


def counts(dom):
    names = ("found", "missed", "passed", "false-alarm")
    return {name: int(re.search(rf'id="n-{name}">(\d+)<', dom)[1]) for name in names}


def expected(limit):
    above = limit < SCORES
    sums = (
        above & (LABELS == 1),
        ~above & (LABELS == 1),
        ~above & (LABELS == 0),
        above & (LABELS == 0),
    )
    return dict(
        zip(("found", "missed", "passed", "false-alarm"), (int(s.sum()) for s in sums), strict=True)
    )


def gallery(dom):
    cards = re.findall(r"<figure[^>]*>", dom.partition('id="cards"')[2].partition('id="run"')[0])
    return [card for card in cards if "hidden" not in card]


def dialog_of(dom):
    return dom.partition("<dialog")[2].partition("</dialog>")[0]


def test_it_opens_at_the_limit_of_the_run(page, tmp_path):
    dom = shown(page, tmp_path)
    assert counts(dom) == expected(LIMIT)
    assert len(gallery(dom)) == 8
    assert '<dialog id="large" aria-label="one image">' in dom  # closed


@pytest.mark.parametrize("position", [0, 1, 4, 7])
def test_the_slider_changes_counts_and_gallery(page, tmp_path, position):
    move = f"slider.limit.value = {position};"
    move += 'slider.limit.dispatchEvent(new Event("input", {bubbles: true}));'
    choose = 'form.verdict.value = "missed"; form.dispatchEvent(new Event("input"));'
    dom = shown(page, tmp_path, "", move + choose)
    limit = [SCORES.min() - 1, *np.unique(SCORES)][position]
    assert counts(dom) == expected(limit)
    assert len(gallery(dom)) == expected(limit)["missed"]
    assert all('data-verdict="missed"' in card for card in gallery(dom))


def test_a_filter_by_defect(page, tmp_path):
    choose = 'form.defect.value = "scratch"; form.dispatchEvent(new Event("input"));'
    cards = gallery(shown(page, tmp_path, "", choose))
    assert [re.search(r'data-defect="(\w+)"', card)[1] for card in cards] == ["scratch"] * 2


def test_a_click_enlarges_and_keys_go_on(page, tmp_path):
    click = 'grid.children[0].querySelector(".pair").click();'
    dom = shown(page, tmp_path, "", click)
    dialog = dialog_of(dom)
    assert 'open=""' in dialog.partition(">")[0]
    assert "7.png" in dialog  # the highest score
    assert [m for m in ("#p0", "#h0", "#i0") if m in dialog] == ["#p0", "#h0", "#i0"]
    key = 'large.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));'
    assert "5.png" in dialog_of(shown(page, tmp_path, "", click + key))
    enter = 'grid.children[2].dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));'
    assert "3.png" in dialog_of(shown(page, tmp_path, "", enter))


def test_an_address_brings_the_same_view_back(page, tmp_path):
    dom = shown(page, tmp_path, "limit=0.35&defect=hole&image=3")
    assert counts(dom) == expected(0.35)
    assert len(gallery(dom)) == 2
    assert 'open=""' in dom.partition("<dialog")[2].partition(">")[0]
    kept = shown(
        page, tmp_path, "limit=0.35&defect=hole", "remember(); document.title = location.hash;"
    )
    assert "<title>#defect=hole&amp;limit=0.35</title>" in kept


def test_a_narrow_screen_shows_all_of_it(page, tmp_path):
    measure = "document.body.dataset.over = document.documentElement.scrollWidth - innerWidth;"
    dom = shown(page, tmp_path, script=measure, more=["--window-size=390,800"])
    assert int(re.search(r'data-over="(-?\d+)"', dom)[1]) <= 0
