"""Loggers that fail at the start, in the middle or at the end, and the run that goes on."""

import json

import pytest
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.reporting.dashboards import dashboards
from lightning_ad.reporting.dashboards.identity import DashboardRuns
from lightning_ad.reporting.dashboards.safe_logger import SafeLogger, reason


class Fragile(Logger):
    """Fails in the method that `broken` names; keeps what it was given."""

    name = "fragile"
    version = "v7"
    save_dir = "somewhere"

    def __init__(self, broken=""):
        super().__init__()
        self.broken = broken
        self.calls = []

    def call(self, name, *values):
        self.calls.append((name, *values))
        if name == self.broken:
            raise ConnectionError(f"{name} is away")

    @property
    def experiment(self):
        self.call("experiment")
        return self

    def log_metrics(self, metrics, step=None):
        self.call("log_metrics", metrics, step)

    def log_hyperparams(self, params, *args, **options):
        self.call("log_hyperparams", params)

    def save(self):
        self.call("save")

    def after_save_checkpoint(self, checkpoint_callback):
        self.call("after_save_checkpoint")

    def finalize(self, status):
        self.call("finalize", status)


@pytest.fixture(autouse=True)
def first_process(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)


def use_all(logger):
    """Calls what Lightning calls in a run."""
    found = [logger.experiment, logger.name, logger.version, logger.save_dir]
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    logger.after_save_checkpoint(None)
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.finalize("success")
    return found


STEPS = ["experiment", "log_hyperparams", "log_metrics", "save", "after_save_checkpoint"]


@pytest.mark.parametrize("broken", [*STEPS, "finalize"])
def test_a_failure_is_one_warning_wherever_it_comes(broken):
    inner = Fragile(broken)
    logger = SafeLogger("Fragile", lambda: inner, lambda version: None)
    sentence = f"Fragile failed .*ConnectionError: {broken} is away"
    with pytest.warns(UserWarning, match=sentence) as warned:
        use_all(logger)
    assert len(warned) == 1
    assert inner.calls[-1][0] == broken  # it gets nothing more
    assert logger.inner is None
    logger.experiment.log_artifact("anything")


def test_a_logger_that_cannot_be_made_is_a_warning():
    def missing():
        raise ModuleNotFoundError("Requirement 'wandb' not met")

    with pytest.warns(UserWarning, match=r"WandbLogger failed .*logs/csv.*'wandb' not met"):
        logger = SafeLogger("WandbLogger", missing, lambda version: None)
    use_all(logger)
    assert dashboards([logger]) == []


def test_a_whole_logger_gets_everything_once():
    inner = Fragile()
    versions = []
    logger = SafeLogger("Fragile", lambda: inner, versions.append)
    found = use_all(logger)
    assert found == [inner, "fragile", "v7", "somewhere"]
    assert [call[0] for call in inner.calls] == [*STEPS, "log_metrics", "finalize"]
    assert versions == ["v7"]
    assert logger.broken == ""


def test_a_run_that_was_stopped_is_not_marked_as_failed():
    inner = Fragile()
    logger = SafeLogger("Fragile", lambda: inner, lambda version: None)
    logger.note_stop()
    logger.finalize("failed")
    assert inner.calls == [("save",)]
    logger.finalize("success")
    assert inner.calls[-1] == ("finalize", "success")


def test_steps_that_an_earlier_part_of_the_run_has_logged_are_left_out():
    inner = Fragile()
    logger = SafeLogger(
        "Fragile", lambda: inner, lambda version: None, lambda _, name: {"loss": 3}.get(name, -1)
    )
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.log_metrics({"loss": 0.4, "rate": 0.1}, step=3)
    logger.log_metrics({"loss": 0.3}, step=4)
    logged = [call for call in inner.calls if call[0] == "log_metrics"]
    assert logged == [("log_metrics", {"rate": 0.1}, 3), ("log_metrics", {"loss": 0.3}, 4)]


def test_the_reason_names_variables_and_no_secret():
    found = reason(ValueError("mode\n  is 'offlin', key abc"), {"WANDB_MODE": "offlin"})
    assert found == "ValueError: mode is 'offlin', key abc (WANDB_MODE=offlin in the environment)"
    assert "(" not in reason(ValueError("key abc"), {"WANDB_API_KEY": "abc", "HOME": "key"})


def test_a_run_goes_on_under_the_number_that_was_written(tmp_path):
    file = tmp_path / "logs/dashboards.json"
    runs = DashboardRuns(file, "mine/version_0")
    begun = runs.complete("0 MLFlowLogger", "MLFlowLogger", {"run_name": None, "run_id": None})
    assert begun == {"run_name": "mine/version_0", "run_id": None}
    assert runs.last_step("0 MLFlowLogger", "MLFlowLogger") is None
    runs.remember("0 MLFlowLogger", "abc")
    runs.remember("1 WandbLogger", "xyz")
    assert json.loads(file.read_text()) == {"0 MLFlowLogger": "abc", "1 WandbLogger": "xyz"}
    again = DashboardRuns(file, "mine/version_0")
    found = again.complete("0 MLFlowLogger", "MLFlowLogger", {"run_name": "own", "run_id": None})
    assert found == {"run_name": "own", "run_id": "abc"}
    assert again.last_step("0 MLFlowLogger", "MLFlowLogger") is not None
    found = again.complete("1 WandbLogger", "WandbLogger", {"id": None, "version": "own"})
    assert (found["id"], found["version"]) == (None, "own")
    assert again.complete("2 CometLogger", "CometLogger", {"a": 1}) == {"a": 1}
    file.write_text("{")
    assert again.complete("0 MLFlowLogger", "MLFlowLogger", {})["run_name"] == "mine/version_0"
