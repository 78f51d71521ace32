import math
from pathlib import Path

import pytest
from made_up_results import made_up_results

from lightning_ad.data.checking import Fault
from lightning_ad.data.sample import Sample
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.methods.suspects import Suspect
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.reporting.terminal import metrics_table, print_summary, warn_of_gaps
from lightning_ad.system.run_folder import RunFolder

FOLDER = RunFolder(Path("runs/a"))
ROWS = [
    ImageResult("a", 0, "good", 1.0, anomalous=False),
    ImageResult("b", 0, "good", 3.0, anomalous=True),
    ImageResult("c", 1, "hole", 4.0, anomalous=True),
    ImageResult("d", 1, "hole", 2.0, anomalous=False),
    ImageResult("e", 1, "hole", 5.0, anomalous=True),
]


def test_the_table_of_metrics():
    metrics = {"image_AUROC": 0.98765432, "image_F1Max": 1.0, "pixel_AP": math.nan, "latency": 12.5}
    table = metrics_table(metrics, {"image_AUROC": (0.91, 1.0)})
    assert table.splitlines() == [
        "image_AUROC  0.987654  [0.910, 1.000]",
        "image_F1Max  1.000000  oracle",
        "pixel_AP     n/a",
        "latency      12.500000",
    ]


def test_all_that_can_be_printed(capsys):
    results = made_up_results(
        ROWS,
        metrics={"image_AUROC": 0.5},
        threshold=Threshold(2.5, None, "number", "a number that was given"),
        bounds={"pixel_AP": (0.25, 0.5), "pixel_of_a_longer_name": (0.5, 1)},
        suspects=[Suspect("x", 2.0, True), Suspect("y", 1.0, False)],
        skipped=[Fault(Sample("z", "test"), "not an image")],
    )
    print_summary(results, FOLDER)
    assert capsys.readouterr().out.splitlines() == [
        "Training images, the most suspicious first: runs/a/suspects.csv (1 of 2 are left out)",
        "Images that were left out: runs/a/skipped.csv",
        "PatchCore on <b>mtd: 5 training images, 3 good and 4 anomalous test images, 64 x 64 px",
        "image_AUROC  0.500000",
        "",
        "Threshold 2.5 (a number that was given): 2 of 3 anomalous images found,"
        " 1 of 2 good ones called anomalous",
        "",
        "Pixels were counted in bins; the exact metrics lie in",
        "pixel_AP                [0.250000, 0.500000]",
        "pixel_of_a_longer_name  [0.500000, 1.000000]",
        "",
        "Report: runs/a/report.html",
    ]


def test_the_least_that_is_printed(capsys):
    counts = {"train": 0, "test_good": 2, "test_anomalous": 3}
    print_summary(made_up_results(ROWS, metrics={"image_AUROC": 0.5}, counts=counts), FOLDER)
    assert capsys.readouterr().out.splitlines() == [
        "PatchCore on <b>mtd: 2 good and 3 anomalous test images, 64 x 64 px",
        "image_AUROC  0.500000",
        "",
        "Report: runs/a/report.html",
    ]


def test_warnings_of_what_the_metrics_do_not_say(recwarn):
    warn_of_gaps(made_up_results(ROWS))
    assert not recwarn
    with pytest.warns(UserWarning, match=r"2 anomalous images have a mask.*the first is a\.png"):
        warn_of_gaps(made_up_results(ROWS, small_defects=["a.png", "b.png"]))
    tiled = made_up_results(ROWS, small_defects=["a.png"], protocol={"tiles": [64, 64, 32]})
    with pytest.warns(UserWarning, match=r"A larger data\.image_size keeps small defects"):
        warn_of_gaps(tiled)
    with pytest.warns(UserWarning, match="PatchCore scores whole images"):
        warn_of_gaps(made_up_results(ROWS, has_localization=False))


def test_scores_that_are_all_alike_are_told():
    same = [ImageResult(name, label, "x", 0.0) for name, label in (("a", 0), ("b", 1))]
    with pytest.warns(UserWarning, match="all 2 test images have the same score, 0: "):
        warn_of_gaps(made_up_results(same))
