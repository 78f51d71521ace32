"""Thresholds, kinds of defect and comparisons, as a user asks for them."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import QUIET, flags, metrics_of, typed
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.errors import UsageError
from lightning_ad.reporting.maps import read_map


def test_held_out_images_give_p_values(trees, tmp_path):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.validation", "holdout"]
    rows = list(csv.DictReader((train(args).path / "predictions.csv").open()))
    assert all(float(row["p_value"]) in (0.5, 1.0) for row in rows)
    assert {row["anomalous"] for row in rows} == {""}  # a verdict at 0.01 takes 99 images


def test_verdicts_keep_the_share_that_is_asked_for(trees, tmp_path):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.validation", "holdout"]
    folder = train([*args, "--reject", "0.5"]).path
    threshold = json.loads((folder / "metrics.json").read_text())["threshold"]["image"]
    for row in csv.DictReader((folder / "predictions.csv").open()):
        assert (
            row["anomalous"]
            == str(float(row["score"]) > threshold).lower()
            == str(row["p_value"] == "0.5").lower()
        )
    runs = {p.name for p in (tmp_path / "patchcore-mvtec-bottle").iterdir()}
    with pytest.raises(
        UsageError, match=r"at most 0\.2 .* takes the scores of 4 held-out .* there are 1"
    ):
        train([*args, "--reject", "0.2"])
    assert {p.name for p in (tmp_path / "patchcore-mvtec-bottle").iterdir()} == runs


HELD = ["--data.validation", "holdout", "--data.validation_anomalies", "true"]
THRESHOLDS = {
    "quantile": ("PatchCore", ["--threshold", "quantile", "--data.validation", "holdout"]),
    "f1": ("PatchCore", ["--threshold", "f1", *HELD]),
    "chi2": ("MahalanobisAD", ["--threshold", "chi2"]),
    "number": ("PatchCore", ["--threshold", "0.25"]),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_each_way_to_choose_a_threshold_is_kept_by_an_evaluation(trees, tmp_path, name):
    method, more = THRESHOLDS[name]
    folder = train([*flags(method, "mvtec", trees, tmp_path), *more]).path
    again = evaluate([str(folder), *QUIET]).path
    threshold, same = (
        json.loads((f / "metrics.json").read_text())["threshold"] for f in (folder, again)
    )
    assert threshold == same
    assert threshold["method"] == name
    for row in csv.DictReader((folder / "predictions.csv").open()):
        assert row["anomalous"] == str(float(row["score"]) > threshold["image"]).lower()


def test_a_threshold_of_an_epoch_that_is_not_validated_is_told_before_the_fit(trees, tmp_path):
    wish = [
        "--data.validation",
        "holdout",
        "--reject",
        "0.5",
        "--trainer.check_val_every_n_epoch",
        "2",
    ]
    with pytest.raises(
        UsageError,
        match=r"after 3 epochs there is none: set trainer\.check_val_every_n_epoch \(2\)",
    ):
        train([*flags("DRAEM", "mvtec", trees, tmp_path), *wish, "--trainer.max_epochs", "3"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("f1", "labelled validation images.*--data.validation given"),
        ("chi2", "Mahalanobis AD alone"),
    ],
)
def test_a_threshold_that_cannot_be_had_is_told_before_the_fit(trees, tmp_path, flag, message):
    with pytest.raises(UsageError, match=message):
        train([*flags("PatchCore", "mvtec", trees, tmp_path), "--threshold", flag])
    assert not list(tmp_path.iterdir())


def test_loco_is_told_by_kind_of_defect_and_as_saturated_overlap(trees, tmp_path):
    folder = train(flags("PatchCore", "mvtec_loco", trees, tmp_path)).path
    details = json.loads((folder / "metrics.json").read_text())["details"]
    assert {*details["by_defect"]} == {"logical_anomalies", "structural_anomalies"}
    values = [of["pixel_AUsPRO_0.05"] for of in details["by_defect"].values()]
    assert details["mean_over_defects"]["pixel_AUsPRO_0.05"] == pytest.approx(sum(values) / 2)
    assert "AUsPRO 0.05" in (folder / "report.html").read_text()


def test_the_protocol_says_by_what_was_measured(trees, tmp_path):
    folder = train(flags("PatchCore", "mtd", trees, tmp_path)).path
    other = train(
        [*flags("PatchCore", "mtd", trees, tmp_path), "--model.coreset_ratio", "0.1"]
    ).path
    again = evaluate([str(folder), *QUIET]).path
    first, second, same = (
        json.loads((f / "metrics.json").read_text())["protocol"] for f in (folder, other, again)
    )
    assert first == same
    assert first["weights"] != second["weights"]
    assert {**first, "weights": None} == {**second, "weights": None}
    assert (first["resize"], first["crop"], first["pixel_metrics"]) == ([64, 64], None, "exact")


def test_each_image_is_told_by_itself(trees, tmp_path):
    folder = train(flags("PatchCore", "mvtec", trees, tmp_path)).path
    for row in csv.DictReader((folder / "predictions.csv").open()):
        if row["defect"] == "good":
            assert row["pixel_AUROC"] == row["pixel_AP"] == ""
            continue
        mask = (
            trees["mvtec"]
            / f"bottle/ground_truth/{row['defect']}/{Path(row['path']).stem}_mask.png"
        )
        truth = (
            np.asarray(Image.open(mask).resize((64, 64), Image.Resampling.NEAREST)).ravel() > 127
        )
        scores = read_map(folder / row["map"]).ravel()
        assert float(row["pixel_AUROC"]) == pytest.approx(
            roc_auc_score(truth, scores), abs=1e-3
        )  # 16-bit maps
        assert float(row["pixel_AP"]) == pytest.approx(
            average_precision_score(truth, scores), abs=1e-2
        )


def test_two_runs_are_compared(trees, tmp_path, capsys):
    first = train(flags("PatchCore", "mtd", trees, tmp_path)).path
    alike = ["--data.resize", "bilinear"]  # as PatchCore's configuration
    second = train([*flags("PaDiM", "mtd", trees, tmp_path), *alike]).path
    capsys.readouterr()
    typed("compare", first.parent, second)
    printed = capsys.readouterr().out
    a, b = (metrics_of(folder)["image_AUROC"] for folder in (first, second))
    values = f"{a:>9.6f}  {b:>9.6f}  {b - a:>+9.6f}"
    assert re.search(
        rf"image_AUROC +{re.escape(values)}  \[[-+.\d]+, [-+.\d]+\] +[.\d]+\n", printed
    )
    assert re.search(r"pixel_AUPRO_0\.30 +[.\d]+ +[.\d]+ +[-+.\d]+\n", printed)
    assert f"A {first}\nB {second}\n" in printed
    summary = json.loads((second / "metrics.json").read_text())
    del summary["metrics"]["image_AP"]  # as if it had been added since
    (second / "metrics.json").write_text(json.dumps(summary))
    typed("compare", first, second)
    assert re.search(r"image_AP +[.\d]+ +n/a\n", capsys.readouterr().out)
    other = train(flags("PatchCore", "folder", trees, tmp_path)).path
    with pytest.raises(UsageError, match="tested on different images"):
        typed("compare", first, other)
    assert "measured differently" not in printed
    cropped = train([*flags("PatchCore", "mtd", trees, tmp_path), "--data.center_crop", "32"]).path
    capsys.readouterr()
    typed("compare", first, cropped)
    printed = capsys.readouterr().out
    assert "measured differently" in printed
    assert "crop: None and [32, 32]" in printed
    any_grey = ["--data.layout_options.mask_threshold", "0"]
    greys = [
        train([*flags("PatchCore", "folder", trees, tmp_path), *more]).path
        for more in ([], any_grey)
    ]
    capsys.readouterr()
    typed("compare", *greys)
    assert re.search("masks: .*above 127 of 255 and .*above 0 of 255", capsys.readouterr().out)
    with pytest.raises(UsageError, match="required: RUN_B"):
        typed("compare", first)


@pytest.mark.parametrize("wish", [["--reject", "0.5"], ["--threshold", "quantile"]])
def test_held_out_images_that_were_seen_otherwise_give_no_verdicts(trees, tmp_path, capsys, wish):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.validation", "holdout", *wish]
    folder = train(args).path
    assert re.search(
        r"\nThreshold \S+ \(.*\): \d of 4 anomalous images found, \d of 3 good",
        capsys.readouterr().out,
    )
    differently = r"preprocessed differently \(resize \(64, 64\).*resize \(96, 96\)"
    with pytest.warns(UserWarning, match=differently):
        again = evaluate([str(folder), "--data.image_size", "96", *QUIET])
    assert json.loads(again.metrics.read_text())["threshold"] is None
    assert {row["p_value"] for row in csv.DictReader(again.predictions.open())} == {""}
    same = evaluate([str(folder), *QUIET])
    threshold = json.loads(same.metrics.read_text())["threshold"]
    assert threshold["method"] == ("quantile" if "quantile" in wish else "conformal")
    assert threshold["basis"] in same.report.read_text()
    by_number = evaluate(
        [str(folder), "--data.image_size", "96", "--threshold", "0.25", "--reject", "null", *QUIET]
    )
    assert json.loads(by_number.metrics.read_text())["threshold"]["image"] == 0.25


def test_images_that_chose_the_epoch_promise_nothing(trees, tmp_path):
    args = [
        *flags("CFA", "mvtec", trees, tmp_path),
        "--data.validation",
        "holdout",
        "--reject",
        "0.5",
    ]
    runs = [train([*args, *more]) for more in ([], ["--select", "validation_loss"])]
    bases = [json.loads(run.metrics.read_text())["threshold"]["basis"] for run in runs]
    assert "at most 50 %" in bases[0]
    assert "no promise" in bases[1]
    assert "at most" not in bases[1]
    again = evaluate([str(runs[1].path), *QUIET])
    assert json.loads(again.metrics.read_text())["threshold"]["basis"] == bases[1]


def test_a_defect_that_vanishes_in_the_resize_is_told(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    mask = root / "bottle/ground_truth/broken/000_mask.png"
    small = Image.new("L", Image.open(mask).size)
    small.putpixel((1, 1), 255)
    small.save(mask)
    args = [
        *flags("PatchCore", "mvtec", {"mvtec": root}, tmp_path / "runs"),
        "--data.image_size",
        "32",
    ]
    with pytest.warns(UserWarning, match="1 anomalous images have a mask, but no defective pixel"):
        folder = train(args)
    assert json.loads(folder.metrics.read_text())["counts"]["test_without_outline"] == 1


def test_other_images_of_the_same_names_are_told_in_a_comparison(trees, tmp_path, capsys):
    first = train(flags("PatchCore", "mvtec", trees, tmp_path)).path
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    mask = root / "bottle/ground_truth/broken/000_mask.png"
    Image.effect_noise(Image.open(mask).size, 200).point(lambda v: 255 * (v > 127)).save(mask)
    second = train(flags("PatchCore", "mvtec", {"mvtec": root}, tmp_path)).path
    capsys.readouterr()
    typed("evaluate", "--compare", first, second)  # as evaluate.py had it before
    assert re.search("test_set: [0-9a-f]{16} and [0-9a-f]{16}", capsys.readouterr().out)


@pytest.mark.parametrize("threshold", ["0.25", "f1"])
def test_a_share_that_a_threshold_does_not_look_at_is_told(trees, tmp_path, threshold):
    args = [
        *flags("PatchCore", "mvtec", trees, tmp_path),
        *HELD,
        "--threshold",
        threshold,
        "--reject",
        "0.1",
    ]
    with pytest.raises(UsageError, match="leave out --reject, or --threshold"):
        train(args)


def test_a_promise_without_held_out_images_says_how_to_have_some(trees, tmp_path):
    with pytest.raises(
        UsageError, match=r"there are 0\. Hold some out of training: --data.validation holdout"
    ):
        train([*flags("PatchCore", "mvtec", trees, tmp_path), "--reject", "0.05"])
