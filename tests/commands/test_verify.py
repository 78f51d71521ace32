"""`lightning-ad verify`: whether a run's numbers come out of its checkpoint again."""

import json
import shutil

import pytest
import torch
import yaml
from runs import QUIET, flags, metrics_of, script, typed

from lightning_ad.cli.run import RunCLI
from lightning_ad.commands.train import parse, train
from lightning_ad.errors import DataError, UsageError
from lightning_ad.inspector import FinishedRun
from lightning_ad.reporting.record import Record, compare_records
from lightning_ad.reporting.tables import read_predictions
from lightning_ad.system.checkpoints import CONFIG_KEY, write_whole
from lightning_ad.system.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(trees, tmp_path_factory):
    return train(flags("PaDiM", "mvtec", trees, tmp_path_factory.mktemp("runs"))).path


def verified(run, capsys, *more):
    code = typed("verify", run, *QUIET, *more)
    return code, capsys.readouterr().out


def test_a_run_is_confirmed_and_left_as_it_is(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, said = verified(run, capsys)
    assert code == 0
    assert f"confirmed: all {len(metrics_of(run))} metrics of {run}, to the last digit" in said
    assert "\ncompared: metrics, oracle, intervals, details, counts, threshold, pred" in said
    assert "\nnot compared: report.html\n" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.distributed
def test_the_first_of_two_processes_compares(run):
    done = script("evaluate.py", ["--verify", run, "--trainer.devices", "2", *QUIET])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"confirmed: all {len(metrics_of(run))} metrics of {run}") == 1
    assert "error" not in done.stderr


def test_another_number_another_checkpoint_or_other_images_are_not_confirmed(
    run, trees, tmp_path, capsys
):
    copy = shutil.copytree(run, tmp_path / "version_0")
    content = json.loads((copy / "metrics.json").read_text())
    content["metrics"]["pixel_AUROC"] += 1e-9
    (copy / "metrics.json").write_text(json.dumps(content))
    code, said = verified(copy, capsys)
    assert code == 0
    assert "within 1e-06" in said
    content["metrics"]["pixel_AUROC"] += 1e-3
    (copy / "metrics.json").write_text(json.dumps(content))
    code, said = verified(copy, capsys)
    assert code == 1
    assert f"NOT CONFIRMED: 1 of {len(metrics_of(run))} metrics" in said
    assert f"pixel_AUROC       recorded {content['metrics']['pixel_AUROC']!r}, now" in said

    other = train(
        [*flags("PaDiM", "mvtec", trees, tmp_path / "other"), "--seed_everything", "7"]
    ).path
    shutil.copy(other / "checkpoints/last.ckpt", copy / "checkpoints/last.ckpt")
    code, said = verified(copy, capsys)
    assert code == 1
    assert "the checkpoint is not the one that was tested" in said

    code, said = verified(run, capsys, "--data.root", str(trees["all"]))
    assert code == 1
    assert "differs: test_set" in said


def made_before_resize_could_be_set(run, copy):
    """A copy of a run without what this setting has brought."""
    shutil.copytree(run, copy)
    file = copy / "checkpoints/last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    config = yaml.safe_load(checkpoint[CONFIG_KEY])
    del config["data"]["resize"]
    checkpoint[CONFIG_KEY] = yaml.safe_dump(config)
    write_whole(checkpoint, file)
    (copy / "config.yaml").write_text(checkpoint[CONFIG_KEY])
    content = json.loads((copy / "metrics.json").read_text())
    del content["protocol"]["interpolation"]
    (copy / "metrics.json").write_text(json.dumps(content))
    return copy


def test_a_run_from_before_keeps_its_resize_and_rounding(run, trees, tmp_path, capsys):
    earlier = made_before_resize_could_be_set(run, tmp_path / "runs" / "earlier" / "version_0")
    assert FinishedRun.read(earlier).config["data"]["resize"] is None
    assert FinishedRun.read(run).config["data"]["resize"] == "lanczos"
    new = shutil.copytree(trees["mvtec"] / "bottle/train/good", tmp_path / "new")
    more = ["--extend", str(earlier), "--data.train_folder", str(new)]
    extended = parse([*more, "--output", str(tmp_path / "extended"), *QUIET])
    assert extended.datamodule.geometry.interpolation is None
    (earlier / "metrics.json").rename(tmp_path / "metrics.json")
    named = [*flags("PaDiM", "mvtec", trees, tmp_path / "runs"), "--name", "earlier", "--resume"]
    resumed = RunCLI(named)
    resumed.folder.unlock()
    assert resumed.datamodule.geometry.interpolation is None


def edited(change):
    """Changes what metrics.json holds."""

    def edit(folder):
        content = json.loads((folder / "metrics.json").read_text())
        change(content)
        (folder / "metrics.json").write_text(json.dumps(content))

    return edit


def replaced(name, old, new):
    """Changes a text in a file."""

    def edit(folder):
        file = folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return edit


def without_a_map(folder):
    next(folder.rglob("maps/*/*.png")).unlink()


def with_another_map(folder):
    maps = sorted(folder.rglob("maps/*/*.png"))
    shutil.copy(maps[0], maps[1])


THRESHOLD = {"image": 1, "pixel": None, "method": "conformal", "basis": "lies"}
CHANGES = {
    "a metric is missing": (edited(lambda c: c["metrics"].pop("pixel_AP")), "metrics"),
    "all are missing": (edited(lambda c: c["metrics"].clear()), "metrics"),
    "a metric is a text": (edited(lambda c: c["metrics"].update(pixel_AP="0.9")), "metrics"),
    "a metric is true": (edited(lambda c: c["metrics"].update(pixel_AP=True)), "metrics"),
    "a metric was made up": (edited(lambda c: c["metrics"].update(best=1.0)), "metrics"),
    "an interval": (edited(lambda c: c["intervals"].update(image_AUROC=[0, 0.1])), "intervals"),
    "a detail": (
        edited(lambda c: c["details"]["by_defect"]["broken"].update(image_AUROC=0.1)),
        "details",
    ),
    "a detail is missing": (edited(lambda c: c["details"]["by_defect"].clear()), "details"),
    "the threshold": (edited(lambda c: c.update(threshold=THRESHOLD)), "threshold"),
    "a count": (edited(lambda c: c["counts"].update(test_good=700)), "counts"),
    "a label": (replaced("predictions.csv", ",1,broken", ",0,good"), "predictions.csv"),
    "a verdict": (replaced("predictions.csv", "broken,", "broken,9"), "predictions.csv"),
    "a row is missing": (lambda f: cut(f / "predictions.csv"), "predictions.csv"),
    "a map is missing": (without_a_map, "maps"),
    "another map": (with_another_map, "maps"),
}


def cut(file):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_changed_in_a_record_is_found(change, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "version_0")
    found = Record.read(RunFolder(run))
    same = compare_records(Record.read(RunFolder(copy)), found)
    assert same.differences == []
    assert same.left_out == ["report.html"]
    edit, section = CHANGES[change]
    edit(copy)
    differences = compare_records(Record.read(RunFolder(copy)), found).differences
    assert {difference.section for difference in differences} == {section}
    assert not any(difference.small for difference in differences)


def test_what_is_not_recorded_is_said_and_not_called_confirmed(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "version_0")
    edited(lambda c: c.pop("details"))(copy)
    (copy / "predictions.csv").unlink()
    comparison = compare_records(Record.read(RunFolder(copy)), Record.read(RunFolder(run)))
    assert comparison.differences == []
    assert "details (not recorded)" in comparison.left_out
    assert "predictions.csv (not there)" in comparison.left_out
    for broken in ("", "{", "[]", '{"metrics": {}}', '{"metrics": 1, "protocol": {}}'):
        (copy / "metrics.json").write_text(broken)
        with pytest.raises(DataError, match=r"metrics\.json is not what a run writes"):
            Record.read(RunFolder(copy))


def test_what_cannot_be_verified(tmp_path):
    with pytest.raises(UsageError, match="arguments are required: RUN"):
        typed("verify")
    with pytest.raises(UsageError, match="there is no run"):
        typed("verify", tmp_path)


def test_a_part_of_the_test_set_does_not_pass_for_the_whole(trees, tmp_path, capsys):
    args = [*flags("PaDiM", "mvtec", trees, tmp_path), "--trainer.limit_test_batches", "1"]
    with pytest.warns(UserWarning, match=r"3 of \d+ test images were tested"):
        folder = train(args)
    content = json.loads(folder.metrics.read_text())
    rows = read_predictions(folder.predictions)
    counts = content["counts"]
    assert len(rows) == counts["test"] == 3
    assert counts["test_good"] == sum(row.label == 0 for row in rows)
    assert counts["test_anomalous"] == sum(row.label for row in rows)
    assert counts["test_left_out"] > 0
    assert content["protocol"]["tested"] == f"3 of {3 + counts['test_left_out']} test images"
    assert "more images, by trainer.limit_test_batches" in folder.report.read_text()
    code, said = verified(folder.path, capsys)
    assert code == 0, said
