"""TensorBoard: event files, which `tensorboard --logdir` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import Dashboard, Scene
from lightning_ad.reporting.dashboards.panels import drawn_curve
from lightning_ad.reporting.pictures import Picture


class TensorBoardDashboard(Dashboard):
    """Images, histograms and text of an event file; a curve is an image."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Two tabs of text."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        self.logger.experiment.add_text("facts", f"| | |\n|---|---|\n{rows}")
        self.logger.experiment.add_text(
            "config", "\n".join(f"    {line}" for line in config.splitlines())
        )

    def scenes(
        self, group: str, scenes: Sequence[Scene], panels: Sequence[Picture], step: int
    ) -> None:
        """An image for each."""
        for scene, panel in zip(scenes, panels, strict=True):
            self.logger.experiment.add_image(
                f"{group}/{scene.name}", panel, step, dataformats="HWC"
            )

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """A histogram."""
        self.logger.experiment.add_histogram(name, values, step)

    def curve(
        self, name: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str], step: int
    ) -> None:
        """Its drawing."""
        self.logger.experiment.add_image(
            name, drawn_curve(name, x, y, labels), step, dataformats="HWC"
        )
