"""What a run shows on TensorBoard, W&B (offline) and MLflow (a local store), read back."""

import io
import json
import os

import numpy as np
import pytest
import yaml
from paths import ROOT
from PIL import Image
from runs import QUIET, flags, logged, metrics_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_file import artifacts, offline_run

from lightning_ad.commands.train import train
from lightning_ad.errors import Preempted
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.reporting.dashboards.base import PlottedLine, ScoredImage
from lightning_ad.reporting.dashboards.callback import pick_examples
from lightning_ad.reporting.dashboards.panels import drawn_curve, drawn_histogram, panel

pytestmark = pytest.mark.xdist_group("dashboards")  # one worker: the runs are made once
LOSSES = {"PatchCore": [], "DRAEM": ["loss", "loss_l2", "loss_ssim", "loss_focal"], "PFM": ["loss"]}
COSTS = [
    "seconds_fit",
    "seconds_test",
    "test_images_per_second",
    "peak_memory_gib_host",
    "checkpoint_mib",
]
SHOWN = ["0 broken 000.png", "1 good 000.png", "2 broken 001.png"]


@pytest.fixture(scope="module", params=sorted(LOSSES))
def run(request, trees, tmp_path_factory):
    """A run of each family with all dashboards: method, folder of dashboards, run folder."""
    pytest.importorskip("mlflow")
    folder, method = tmp_path_factory.mktemp(request.param), request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        loggers = ["--trainer.logger+", "WandbLogger", "--trainer.logger.save_dir", str(folder)]
        loggers += ["--trainer.logger.log_model", "true"]
        loggers += [
            "--trainer.logger+",
            "MLFlowLogger",
            "--trainer.logger.tracking_uri",
            f"file:{folder}/mlruns",
        ]
        held_out = ["--data.validation", "holdout", "--data.validation_share", "0.3"]
        held_out += ["--data.validation_anomalies", "true", "--dashboard_images", "3"]
        done = train([*flags(method, "mvtec", trees, folder / "runs"), *loggers, *held_out])
        import wandb

        wandb.finish()
    return method, folder, done.path


def numbers_of(method):
    rate = {"DRAEM": "lr-Adam", "PFM": "lr-Adam/pg1"}.get(method)
    epochs = (
        ["images_per_second", "wait_share", rate]
        if rate
        else ["seconds_reading", "seconds_summarising"]
    )
    return [*METRIC_NAMES, *COSTS, *LOSSES[method], *epochs, "validation_score", "validation_AUROC"]


def test_tensorboard(run):
    method, _, path = run
    events = EventAccumulator(str(path / "logs/tensorboard"), {"images": 0, "scalars": 0}).Reload()
    tags, metrics = events.Tags(), metrics_of(path)
    assert not {*numbers_of(method)} - {*tags["scalars"]}
    for name in METRIC_NAMES:
        assert events.Scalars(name)[-1].value == pytest.approx(metrics[name], rel=1e-6)
    times = {"PatchCore": 1}.get(method, 3)  # of a learned method also after each epoch
    assert len(events.Scalars("peak_memory_gib_host")) == times
    assert {f"test/{name}" for name in SHOWN} <= {*tags["images"]}
    assert (
        sum(tag.startswith("validation/") for tag in tags["images"]) == 2
    )  # 7 images, 30 % held out
    assert {"curves/image ROC", "curves/pixel PRO"} <= {*tags["images"]}
    assert {"scores/good", "scores/anomalous"} == {*tags["histograms"]}
    picture = Image.open(io.BytesIO(events.Images(f"test/{SHOWN[0]}")[0].encoded_image_string))
    assert picture.size == (2 * 64 + 4, 64 + 18)
    evaluations = {"PatchCore": 1}.get(method, 2)  # one for each epoch
    (first, *_) = (tag for tag in tags["images"] if tag.startswith("validation/"))
    assert len(events.Images(first)) == evaluations
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"class_path: lightning_ad.methods.{method}" in config


def test_weights_and_biases(run):
    method, folder, path = run
    config, history = offline_run(folder / "wandb")
    assert not {*numbers_of(method)} - {*history}
    for name, value in metrics_of(path).items():
        assert history[name][-1] == pytest.approx(value, rel=1e-6)
    if method != "PatchCore":
        assert history["loss"] == pytest.approx(logged(path, "loss"), rel=1e-6)
    assert [c.partition(" ")[2] for c in history["test/images.captions"][-1]] == SHOWN
    (media,) = (folder / "wandb").glob("offline-run-*/files")
    for kind in ("test/images", "test/heat_maps", "validation/images", "validation/heat_maps"):
        assert all(
            (media / name).is_file() for names in history[f"{kind}.filenames"] for name in names
        )
    truth = Image.open(media / history["test/images.all_masks"][-1][0]["truth"]["path"])
    assert np.asarray(truth).max() == 1
    assert history["scores/good._type"] == ["histogram"]
    assert history["curves/pixel PRO_table._type"] == ["table-file"]
    assert (
        yaml.safe_load(config["config"])["model"]["class_path"] == f"lightning_ad.methods.{method}"
    )
    content = json.loads((path / "metrics.json").read_text())
    sets = content["protocol"]["test_set"], content["training_set"]
    assert (config["test_set"], config["training_set"]) == sets
    assert config["version_torch"] == content["versions"]["torch"]
    assert ("model", ["model.ckpt"]) in artifacts(folder / "wandb")


def test_mlflow(run):
    method, folder, path = run
    from mlflow.tracking import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient(f"file:{folder}/mlruns")
        (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert not {*numbers_of(method)} - {*found.data.metrics}
    for name, value in metrics_of(path).items():
        assert found.data.metrics[name] == pytest.approx(value, rel=1e-6)
    assert found.data.tags["method"] == method
    artifacts = {
        p.relative_to(folder).as_posix().partition("/artifacts/")[2]
        for p in folder.rglob("artifacts/**/*")
    }
    assert any(name.startswith("test/step_") and name.endswith("/02.png") for name in artifacts)
    assert any(name.startswith("scores/anomalous/step_") for name in artifacts)
    assert "config.yaml" in artifacts


def test_numbers_have_the_same_names_everywhere(run):
    _, folder, path = run
    events = EventAccumulator(str(path / "logs/tensorboard"), {"scalars": 0}).Reload()
    _, history = offline_run(folder / "wandb")
    (metrics,) = folder.glob("mlruns/*/*/metrics")
    mlflow = {p.relative_to(metrics).as_posix() for p in metrics.rglob("*") if p.is_file()}
    assert {*events.Tags()["scalars"]} - {"hp_metric"} == mlflow
    assert mlflow <= {*history}


def test_a_resumed_run_goes_on_in_its_runs_on_the_dashboards(trees, tmp_path, monkeypatch):
    """Beside a server that does not answer, which is a warning."""
    pytest.importorskip("mlflow")
    import wandb
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"file:{tmp_path}/mlruns"
    args = [*flags("DRAEM", "mvtec", trees, tmp_path / "runs"), "--name", "mine"]
    args += ["--trainer.logger+", "WandbLogger", "--trainer.logger.save_dir", str(tmp_path)]
    for address in (uri, "http://127.0.0.1:9"):
        args += ["--trainer.logger+", "MLFlowLogger", "--trainer.logger.tracking_uri", address]
    stop = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.name", "SIGTERM"]
    with pytest.raises(Preempted):
        train([*args, *stop, "--trainer.callbacks.step", "4"])
    wandb.finish()
    client = MlflowClient(uri)
    (stopped,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert stopped.info.status == "RUNNING"
    with pytest.warns(UserWarning, match="gets nothing more") as warned:
        done = train([*args, "--resume"])
    wandb.finish()
    failures = [str(one.message) for one in warned if "gets nothing more" in str(one.message)]
    assert len(failures) == 1
    assert failures[0].startswith("MLFlowLogger failed")
    assert len(metrics_of(done.path)) == len(METRIC_NAMES)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert found.info.run_id == stopped.info.run_id
    assert found.info.run_name == "mine/version_0"
    assert found.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")]
    assert steps == [0, 1, 2, 3, 4, 5]
    parts = [path.name.rpartition("-")[2] for path in tmp_path.glob("wandb/offline-run-*")]
    assert len(parts) == 2
    assert parts[0] == parts[1]


def test_what_is_shown_depends_on_the_data_alone():
    kinds = ["crack", "crack", "good", "good", "good", "stain"]
    assert pick_examples(kinds, 4) == [0, 2, 5, 1]
    assert pick_examples(kinds, 99) == [0, 2, 5, 1, 3, 4]
    assert pick_examples(kinds, 0) == pick_examples([], 5) == []


def test_panels_show_the_outline_and_the_heat():
    truth = np.zeros((40, 60), bool)
    truth[10:20, 30:40] = True
    heat = np.zeros((40, 60), np.float32)
    heat[12, 33] = 9
    image = np.full((40, 60, 3), 100, np.uint8)
    bad = ScoredImage("bad", 9, image, heat, truth)
    drawn = panel(bad, 0.0, 9.0)
    assert drawn.shape == (40 + 18, 2 * 60 + 4, 3)
    assert (drawn[18 + 9, 30] == (0, 255, 255)).all()  # just outside the mask, in both pictures
    assert (drawn[18 + 9, 64 + 30] == (0, 255, 255)).all()
    assert (drawn[18 + 30, 10] == 100).all()
    assert drawn[18 + 12, 64 + 33].tolist() != [100, 100, 100]


def test_drawn_charts_have_their_line_where_the_values_are():
    line = drawn_curve("ROC", PlottedLine([0.0, 0.5, 1.0], [0.0, 1.0, 1.0], "x", "y"))
    red = (line == (0xC2, 0x41, 0x0C)).all(-1)
    left, middle = np.flatnonzero(red.any(0))[0], red[:, (48 + 408) // 2]
    assert left == pytest.approx(48, abs=2)
    assert np.flatnonzero(middle)[0] == pytest.approx(26, abs=3)  # y = 1 is the top of the chart
    bars = (
        drawn_histogram("scores", np.array([0.0, 1.0, 1.0], np.float32)) == (0xC2, 0x41, 0x0C)
    ).all(-1)
    assert bars[:, -20].sum() == pytest.approx(2 * bars[:, 50].sum(), rel=0.05)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_sweeps_run_as_they_are(path, trees, tmp_path, monkeypatch):
    """The command that an agent types for the first values of a sweep, on a small tree."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    values = {
        k: p["values"][0] if "values" in p else p["min"] for k, p in sweep["parameters"].items()
    }
    own = [part for part in sweep["command"] if not part.startswith("$")]
    assert [*sweep["command"][:3], sweep["command"][-1]] == [
        "${env}",
        "${interpreter}",
        "${program}",
        "${args}",
    ]
    assert sweep["program"] == "train.py"
    method = {"patchcore": "PatchCore", "draem": "DRAEM"}[path.stem]
    small = [
        f
        for f in flags(method, "mvtec", trees, tmp_path)
        if f not in ("--config",) and "configs/" not in f
    ]
    swept = [f"--{name}={value}" for name, value in values.items()]
    small = [
        *small,
        "--trainer.logger.save_dir",
        str(tmp_path),
        "--data.validation_share",
        "0.3",
        *QUIET,
        *swept,
    ]
    done = train([*own, *small])
    assert sweep["metric"]["name"] == "validation_AUROC"
    assert logged(done.path, "validation_AUROC")
    import wandb

    wandb.finish()
    assert not os.path.exists(ROOT / "wandb")
