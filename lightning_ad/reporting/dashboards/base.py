"""What every dashboard can show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.pictures import Map, Mask, Picture

CLASSES = {0: "good", 1: "defect"}


class ScoredImage(NamedTuple):
    """An image that was scored.

    Attributes:
        name: what the dashboard lists it by; the same at every evaluation.
        score: of the image.
        image: uint8 [H, W, 3].
        map: float32 [H, W], its anomaly map.
        truth: bool [H, W], the defect; empty if the image is good.
        called: bool [H, W], the pixels above the threshold; None without one.
    """

    name: str
    score: float
    image: Picture
    map: Map
    truth: Mask
    called: Mask | None = None


class PlottedLine(NamedTuple):
    """A line through points, with the names of both axes."""

    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str


class Dashboard:
    """A view of a run in one logger; what a subclass leaves out is not shown.

    Attributes:
        logger: the logger of Lightning.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def begin(self) -> None:
        """Says that the run has begun, or goes on; nothing on most dashboards."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Shows short facts about the run by name, and its whole configuration as YAML."""
        raise NotImplementedError

    def images(
        self, group: str, images: Sequence[ScoredImage], panels: Sequence[Picture], step: int
    ) -> None:
        """Shows scored images under `group`.

        `panels` are the same images drawn: image and heat map side by side.
        """
        raise NotImplementedError

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """Shows the histogram of some values."""
        raise NotImplementedError

    def curve(self, name: str, line: PlottedLine, step: int) -> None:
        """Shows a line through points."""
        raise NotImplementedError

    def pause(self) -> None:
        """Says that the run was stopped and can go on; nothing on most dashboards."""
