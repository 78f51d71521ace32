"""What every dashboard can be asked to show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.pictures import Mask, Picture

CLASSES = {0: "good", 1: "defect"}


class Scene(NamedTuple):
    """An image that was scored.

    Attributes:
        name: what the dashboard lists it by; the same at every evaluation.
        score: of the image.
        image: uint8 [H, W, 3].
        map: float32 [H, W], its anomaly map.
        truth: [H, W], the defect; nothing where the image is good.
        called: [H, W], pixels above the threshold; None without one.
    """

    name: str
    score: float
    image: Picture
    map: NDArray[np.float32]
    truth: Mask
    called: Mask | None = None


class Dashboard:
    """One logger's way of showing things; whatever a subclass leaves out is not shown.

    Attributes:
        logger: Lightning's.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """What the run is: short facts by name, and its whole configuration as YAML."""
        raise NotImplementedError

    def scenes(
        self, group: str, scenes: Sequence[Scene], panels: Sequence[Picture], step: int
    ) -> None:
        """Scored images under `group`, and the same drawn as panels: image and heat map side by side."""
        raise NotImplementedError

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """The histogram of some values."""
        raise NotImplementedError

    def curve(
        self, name: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str], step: int
    ) -> None:
        """A line through points, with the names of both axes."""
        raise NotImplementedError
