"""What the stages of a fit will hold in memory."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_ad.evaluation import anomaly_metrics as metrics

WRITING = 3e-7  # seconds a pixel, for the map on disk and the metrics


COMPARED = 64  # to find the least of distances takes as long as so many channels of them, each further one too


SELECTED = 2.5  # times a product of all vectors with the centres takes a selection of these


METRIC_BYTES = 28  # a pixel of the test takes, where metrics are exact


BINS_BYTES = 2**27  # all of them take, where pixels are counted in bins


class Stage(NamedTuple):
    """A stage of a fit, or the test.

    Attributes:
        name: as the table shows it.
        held: bytes that are held at its peak, beside what the program takes anyway.
        images: that go through the network.
        operations: additions and multiplications beside the network, most of them in matrix products.
        writing: seconds an image for what is written of it.
    """

    name: str
    held: float
    images: int = 0
    operations: float = 0.0
    writing: float = 0.0


class Plan(NamedTuple):
    """What a run is to do, on each of its processes.

    Attributes:
        images: for training; tiles, where images come by tiles.
        tested: images (tiles) of the test.
        height: of what goes through the network.
        width: of it.
        world: processes.
        batch: images a step.
        epochs: of a method that learns.
    """

    images: int
    tested: int
    height: int
    width: int
    world: int = 1
    batch: int = 1
    epochs: int = 1


def evaluating(plan: Plan, held: float = 0.0, operations: float = 0.0) -> Stage:
    """The test of images whose scores take so many operations each, while `held` bytes are held."""
    return Stage(
        "Testing", held, plan.tested, plan.tested * operations, WRITING * plan.height * plan.width
    )


def with_metrics(test: Stage, plan: Plan, memory_gb: float) -> Stage:
    """The test with what the metrics hold: of each pixel a score, a truth, and their order, sorted, on each process.

    Where pixels go into bins, those that came before.
    """
    pixels, limit = float(plan.tested * plan.height * plan.width * plan.world), memory_gb * 2**30
    exact = metrics.BYTES * pixels <= limit
    return test._replace(
        held=test.held + (METRIC_BYTES * pixels if exact else BINS_BYTES + limit / plan.world)
    )


def scoring_again(test: Stage, plan: Plan, trimming: Sequence[Stage]) -> list[Stage]:
    """The training images scored by what they made, and, where some are trimmed, the fit once more."""
    operations = plan.images * test.operations / max(plan.tested, 1)
    scored = Stage("Scoring the training images", test.held, plan.images, operations)
    return [scored, *(stage._replace(name=f"{stage.name} again") for stage in trimming)]
