"""How much memory the stages of a run take."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_ad.evaluation.pixel_states import BYTES_PER_PIXEL

EXACT_BYTES_PER_PIXEL = 28  # of test pixels, while exact metrics are computed
HISTOGRAM_BYTES = 2**27  # of all histograms, once pixels are counted in bins


class Stage(NamedTuple):
    """A stage of a fit, or the test.

    Attributes:
        name: as the table shows it.
        held_bytes: the most that it holds at once, beside what the program takes anyway.
    """

    name: str
    held_bytes: float


class Plan(NamedTuple):
    """The sizes of a run, on each of its processes.

    Attributes:
        images: training images; tiles, if images are cut into tiles.
        tested: test images (tiles).
        height: of the network's input, in pixels.
        width: of the network's input, in pixels.
        world: number of processes.
        batch: images in a step.
        memory_bytes: the method's memory budget (`memory_gb`); None for no limit.
    """

    images: int
    tested: int
    height: int
    width: int
    world: int = 1
    batch: int = 1
    memory_bytes: int | None = None


def with_metrics(test: Stage, plan: Plan, memory_gb: float) -> Stage:
    """Adds what the pixel metrics hold to a test.

    Exact metrics hold a score, a truth and the sorted order of each pixel, on each process. If
    these take more than `memory_gb` on all processes together, histograms are held instead, beside
    the pixels that came before.
    """
    pixels = float(plan.tested * plan.height * plan.width * plan.world)
    limit = memory_gb * 2**30
    if BYTES_PER_PIXEL * pixels <= limit:
        held = EXACT_BYTES_PER_PIXEL * pixels
    else:
        held = HISTOGRAM_BYTES + limit / plan.world
    return test._replace(held_bytes=test.held_bytes + held)


def with_suspects(fit: Sequence[Stage], test: Stage, trim: bool) -> list[Stage]:
    """Adds the scoring of the training images to a fit.

    With `trim`, also the second fit, without the suspects.
    """
    stages = [*fit, Stage("Scoring the training images", test.held_bytes)]
    if trim:
        for stage in fit:
            stages.append(stage._replace(name=f"{stage.name} again"))
    return stages
