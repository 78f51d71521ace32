"""The forecast of memory that is printed before a run."""

import pytest
from runs import flags

from lightning_ad.cli import forecast
from lightning_ad.cli.forecast import table
from lightning_ad.commands.train import train
from lightning_ad.evaluation.pixel_states import BYTES_PER_PIXEL
from lightning_ad.methods import PatchCore
from lightning_ad.methods.forecast import HISTOGRAM_BYTES, Plan, Stage, with_metrics, with_suspects

PLAN = Plan(images=100, tested=10, height=32, width=64)


def test_the_table():
    title, reading, testing = table([Stage("Reading", 2**30), Stage("Testing", 2**31)]).splitlines()
    assert title.split() == ["Forecast", "memory"]
    assert [line.split()[0] for line in (reading, testing)] == ["Reading", "Testing"]
    held = [float(line.split()[-2]) for line in (reading, testing)]
    assert held[1] - held[0] == pytest.approx(1.0, abs=0.02)


def test_exact_metrics_hold_every_pixel_and_histograms_do_not():
    pixels = 10 * 32 * 64
    limit = BYTES_PER_PIXEL * pixels / 2**30
    exact = with_metrics(Stage("Testing", 5.0), PLAN, limit)
    binned = with_metrics(Stage("Testing", 5.0), PLAN, limit * 0.99)
    assert exact.held_bytes == 5.0 + 28 * pixels
    assert binned.held_bytes == pytest.approx(5.0 + HISTOGRAM_BYTES + limit * 0.99 * 2**30)


def test_a_fit_without_suspects_is_a_second_fit():
    fit = [Stage("Reading images", 7.0)]
    test = Stage("Testing", 3.0)
    scoring = Stage("Scoring the training images", 3.0)
    assert with_suspects(fit, test, trim=False) == [*fit, scoring]
    assert with_suspects(fit, test, trim=True) == [
        *fit,
        scoring,
        Stage("Reading images again", 7.0),
    ]


def test_a_memory_budget_lowers_what_patchcore_holds():
    model = PatchCore("resnet18", None, coreset_ratio=0.01)
    free = max(stage.held_bytes for stage in model.stages(PLAN))
    budget = PLAN._replace(memory_bytes=int(free / 10))
    assert max(stage.held_bytes for stage in model.stages(budget)) < free / 4


def test_the_forecast_comes_first(trees, tmp_path, capsys):
    train(flags("SPADE", "mvtec", trees, tmp_path))
    printed = capsys.readouterr().out
    assert printed.index("Forecast") < printed.index("image_AUROC")
    assert "Reading images" in printed


@pytest.mark.parametrize(
    ("method", "setting"),
    [("PatchCore", "set model.memory_gb to 0.000"), ("CFA", "lower data.image_size")],
)
def test_a_run_that_does_not_fit_names_a_setting_that_does(
    trees, tmp_path, monkeypatch, method, setting
):
    monkeypatch.setattr(forecast, "available", lambda: 2**20)
    warning = f"GiB of memory more than now, and 0.0 GiB are available: {setting}"
    with pytest.warns(UserWarning, match=warning):
        train([*flags(method, "mvtec", trees, tmp_path), "--trainer.limit_test_batches", "1"])
