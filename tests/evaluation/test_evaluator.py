"""Metrics that are not of a curve: as docs/extending.md prints one, on one process and on two."""

import math
import re

import pytest
import torch
from paths import ROOT

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.errors import UserError
from lightning_ad.evaluation.evaluator import Evaluators

PAGE = ROOT / "docs/extending.md"


def printed_evaluator():
    """The class of the page's example."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "class HighestGoodValue" in block]
    names = {"__name__": "example"}
    exec(code, names)
    return names["HighestGoodValue"]


def batch(labels):
    size = len(labels)
    return Batch(
        image=torch.zeros(size, 3, 2, 2),
        label=torch.tensor(labels),
        mask=torch.zeros(size, 2, 2, dtype=torch.bool),
        index=torch.arange(size),
        path=[f"{number}.png" for number in range(size)],
        defect=["crack" if label else "good" for label in labels],
        recipe={},
    )


def prediction(highest):
    """Maps [2, 2] that are 1 below their highest value elsewhere."""
    values = torch.tensor(highest, dtype=torch.float32)
    map = values[:, None, None].repeat(1, 2, 2) - 1
    map[:, 1, 0] = values
    return Prediction(map, values)


BATCHES = [([0, 1], [2.0, 50.0]), ([0, 0], [3.0, -2.0]), ([1], [70.0])]
NAME = "image_highest_good_value"


def computed(batches):
    evaluators = Evaluators([printed_evaluator()])
    for labels, highest in batches:
        evaluators.update(batch(labels), prediction(highest))
    return evaluators.compute()


def test_the_example_by_hand():
    assert computed(BATCHES) == {NAME: (2 + 3 - 2) / 3}


def test_it_is_undefined_without_a_good_image():
    assert math.isnan(computed(BATCHES[2:])[NAME])


def test_a_new_test_begins_with_nothing():
    evaluators = Evaluators([printed_evaluator()])
    evaluators.update(batch([0]), prediction([9.0]))
    evaluators.compute()
    evaluators.reset()
    evaluators.update(batch([0]), prediction([1.5]))
    assert evaluators.compute() == {NAME: 1.5}


def test_it_is_no_part_of_a_checkpoint():
    assert Evaluators([printed_evaluator()]).state_dict() == {}


class Images:
    """An evaluator that is no torchmetrics class."""

    def __init__(self, name="images"):
        self.name = name
        self.seen = 0

    def update(self, batch, prediction):
        self.seen += len(prediction.score)

    def compute(self):
        return {self.name: self.seen}

    def reset(self):
        self.seen = 0


def test_several_evaluators_are_one():
    evaluators = Evaluators([Images, printed_evaluator()])
    for labels, highest in BATCHES:
        evaluators.update(batch(labels), prediction(highest))
    assert evaluators.compute() == {"images": 5.0, NAME: 1.0}
    evaluators.reset()
    assert evaluators.compute()["images"] == 0.0


@pytest.mark.parametrize(
    ("makers", "taken"), [([Images, Images], ()), ([Images], ["image_AUROC", "images"])]
)
def test_two_metrics_of_one_name_are_refused(makers, taken):
    with pytest.raises(UserError, match="two metrics have the name 'images'"):
        Evaluators(makers, taken).compute()


def on_a_process(rank: int) -> dict[str, float]:
    return computed([BATCHES[:2], BATCHES[2:]][rank])


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_two_processes_give_the_metrics_of_all_images(over_processes):
    assert over_processes(2, on_a_process) == [computed(BATCHES)] * 2
