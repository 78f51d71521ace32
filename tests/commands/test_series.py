"""A series: several categories, or folds, by one command."""

import csv
import json
import shutil

import numpy as np
import pytest
from runs import QUIET, typed
from trees import mvtec_tree

from lightning_ad.commands.series import Parts, parts_of, train_each
from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES

pytestmark = pytest.mark.distributed  # processes of their own


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = mvtec_tree(tmp_path_factory.mktemp("several") / "mvtec")
    return mvtec_tree(mvtec_tree(root, "cable", train=5), "screw", train=5)


def flags(root, output):
    args = ["--config", "configs/patchcore.yaml", "--config", "configs/data/mvtec.yaml"]
    args += ["--data.root", str(root), "--data.image_size", "64", "--data.center_crop", "null"]
    args += ["--model.backbone", "squeezenet1_1", "--model.weights", "null"]
    return [*args, "--data.num_workers", "0", "--output", str(output), *QUIET]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_which_categories_are_meant(root, tmp_path):
    args = flags(root, tmp_path)
    assert parts_of([*args, "--data.category", "all"]) == ("category", ["bottle", "cable", "screw"])
    assert parts_of([*args, "--data.category=cable, bottle"]).names == ["cable", "bottle"]
    assert parts_of([*args, "--data.category", "cable"]).names == parts_of(args).names == []
    with pytest.raises(UsageError, match=r"no category .cabel. in .*bottle, cable, screw"):
        parts_of([*args, "--data.category", "cabel,bottle"])
    with pytest.raises(UsageError, match="of which data set"):
        parts_of(["--data.category", "all"])
    with pytest.raises(UsageError, match="the layout 'mtd' finds no categories"):
        parts_of([*args, "--data.layout", "mtd", "--data.category", "all"])
    folds = [*args, "--data.fold", "all", "--data.folds", "3", "--data.validation", "fold"]
    assert parts_of([*folds, "--data.category", "cable"]) == ("fold", ["0", "1", "2"])
    for refused in ([*folds, "--data.category", "all"], [*args, "--data.fold", "all"]):
        with pytest.raises(UsageError, match="one category"):
            parts_of(refused)


def test_folds_give_a_mean_and_its_standard_error(root, tmp_path, capfd, served_training):
    args = [
        *flags(root, tmp_path / "runs"),
        "--data.category",
        "bottle",
        "--data.validation",
        "fold",
    ]
    assert typed("train", *args, "--data.fold", "all", "--data.folds", "2") == 0
    assert "[2/2] fold1of2" in capfd.readouterr().out
    rows = list(csv.DictReader((tmp_path / "runs/patchcore-mvtec-bottle.csv").open()))
    assert [row["fold"] for row in rows] == ["0", "1", "mean", "standard error"]
    values = np.array(
        [[float(row[name]) for name in ("image_AUROC", "pixel_AUROC")] for row in rows]
    )
    found = [
        tmp_path / f"runs/patchcore-mvtec-bottle-fold{fold}of2/version_0/metrics.json"
        for fold in range(2)
    ]
    assert values[:2, 1].tolist() == [
        json.loads(f.read_text())["metrics"]["pixel_AUROC"] for f in found
    ]
    assert len({*values[:2, 1]}) > 1
    np.testing.assert_allclose(values[2], values[:2].mean(0))
    np.testing.assert_allclose(values[3], values[:2].std(0, ddof=1) / 2**0.5)


def finished_run(folder, metrics):
    """The files by which a series takes a run for finished before."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))


def test_all_metrics_that_the_runs_have_are_in_the_tables(root, tmp_path, capsys):
    """One that was added after the first run, one of an evaluator, and three of similar names."""
    clashing = {"image_AUPRO_1.00": 0.5, "pixel_AUPRO_1.00": 0.25, "AUPRO_1.00": 0.125}
    finished_run(tmp_path / "patchcore-mvtec-bottle/version_0", {"image_AUROC": 0.75})
    added = {"image_AUROC": 0.25, **clashing, "image_highest_good_value": 37.5}
    finished_run(tmp_path / "patchcore-mvtec-cable/version_0", added)
    args = [*flags(root, tmp_path), "--data.category", "bottle,cable", "--resume"]
    assert typed("train", *args) == 0
    with (tmp_path / "patchcore-mvtec.csv").open() as file:
        bottle, cable, mean = csv.DictReader(file)
    assert bottle["image_AUROC"] == "0.75"
    assert bottle["image_highest_good_value"] == ""
    assert {name: float(cable[name]) for name in added} == added
    assert mean["category"] == "mean of 1 or 2 of 2"
    assert float(mean["image_AUROC"]) == 0.5
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if "image_AUROC" in line)
    head, *rows = lines[place : place + 3]
    assert head.split() == list(added)
    assert [row.split()[0] for row in rows] == ["bottle", "cable"]
    assert {len(row) for row in rows} == {len(head)}


def test_each_is_trained_a_failed_one_does_not_stop_the_rest_and_resume_takes_finished_ones(
    root, tmp_path, capfd, served_training
):
    tree = shutil.copytree(root, tmp_path / "mvtec")
    broken = tree / "cable/train/good/000.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    args = [*flags(tree, tmp_path / "runs"), "--data.category", "all"]
    assert typed("train", *args) == 1
    said = capfd.readouterr()
    assert "error: 1 of 3 categories failed: cable" in said.err
    assert "[3/3] screw" in said.out
    rows = list(csv.DictReader((tmp_path / "runs/patchcore-mvtec.csv").open()))
    assert [row["category"] for row in rows] == ["bottle", "screw", "mean of 2 of 3"]
    for name in METRIC_NAMES:
        found = [
            json.loads((tmp_path / f"runs/patchcore-mvtec-{c}/version_0/metrics.json").read_text())[
                "metrics"
            ][name]
            for c in ("bottle", "screw")
        ]
        assert [
            float(row[f"{name} oracle" if "F1" in name else name]) for row in rows
        ] == pytest.approx([*found, sum(found) / 2])

    broken.write_bytes(whole)
    assert train_each([*args, "--resume"], Parts("category", ["bottle", "cable", "screw"])) == 0
    said = capfd.readouterr()
    assert said.out.count("finished before") == 2
    assert "cable FAILED" not in said.err
    assert f"{'mean':<6}" in said.out


def test_a_category_called_all_is_one_run(root, tmp_path, monkeypatch):
    """And one of a table whose name has commas, or is a path; each started what it is part of."""
    names = ["all", "a,b", "x/../../out"]
    begun = []

    class Finished:
        def __init__(self, args):
            begun.append(args)
            command = "lightning_ad.commands.train.train"
            monkeypatch.setattr(command, lambda flags: flagged.append(flags))
            assert typed("train", *args) == 0
            folder = tmp_path / args[args.index("--name") + 1]
            finished_run(folder / "version_0", {"image_AUROC": 0.5})

        def wait(self):
            return 0

    flagged = []
    monkeypatch.setattr("lightning_ad.commands.series.start_training", Finished)
    args = [*flags(root, tmp_path), "--data.category", "all"]
    assert train_each(args, Parts("category", names)) == 0
    assert len(begun) == len(names)
    for name, found in zip(names, flagged, strict=True):
        assert found[found.index("--data.category") + 1] == name
    made = sorted(path.name for path in tmp_path.glob("*/"))
    assert made[:2] == ["patchcore-mvtec-a,b", "patchcore-mvtec-all"]
    assert len(made) == 3
