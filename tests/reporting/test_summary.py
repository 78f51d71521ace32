"""One run with a metric and an evaluator that were added: they are in all of its results."""

import json
import re
from functools import partial

import pytest
from runs import flags
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_ad.commands.train import train
from lightning_ad.evaluation import catalogue
from lightning_ad.evaluation.functional import aupro

CURVE_METRIC = "pixel_AUPRO_0.77"  # names that no metric of the project has
ADDED = (CURVE_METRIC, "highest_score")


class HighestScore:
    """A metric that is not of a curve: the highest score of the test."""

    def __init__(self):
        self.reset()

    def update(self, batch, prediction):
        self.highest = max(self.highest, float(prediction.score.max()))

    def compute(self):
        return {"highest_score": self.highest}

    def reset(self):
        self.highest = 0.0


@pytest.fixture(scope="module")
def run(trees, tmp_path_factory):
    """A run with an added metric and an added evaluator, and what it printed."""
    output = tmp_path_factory.mktemp("added")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.METRICS, CURVE_METRIC, partial(aupro, limit=0.77))
        patch.setattr(catalogue, "EVALUATORS", (HighestScore,))
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        folder = train(flags("PatchCore", "mvtec", trees, output))
    return folder, "\n".join(lines)


def test_an_added_metric_is_in_metrics_json(run):
    folder, _ = run
    content = json.loads(folder.metrics.read_text())
    names = list(content["metrics"])
    assert names == [*catalogue.METRICS, *ADDED]
    assert 0 < content["metrics"][CURVE_METRIC] <= 1
    low, high = content["intervals"][CURVE_METRIC]
    assert low <= high
    rows = folder.predictions.read_text().splitlines()[1:]
    assert content["metrics"]["highest_score"] == max(float(row.split(",")[3]) for row in rows)


@pytest.mark.parametrize("name", ADDED)
def test_an_added_metric_is_shown_everywhere(run, name):
    folder, printed = run
    value = json.loads(folder.metrics.read_text())["metrics"][name]
    assert re.search(rf"^{re.escape(name)} +{value:.6f}", printed, re.MULTILINE)
    assert f"<code>{name}</code>" in folder.report.read_text()
    events = EventAccumulator(str(folder.logs / "tensorboard"), {"scalars": 0}).Reload()
    assert events.Scalars(name)[-1].value == pytest.approx(value)
