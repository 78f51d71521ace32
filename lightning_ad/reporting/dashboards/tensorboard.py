"""TensorBoard: event files, which `tensorboard --logdir` shows."""

from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import Dashboard, PlottedLine, ScoredImage
from lightning_ad.reporting.dashboards.panels import drawn_curve
from lightning_ad.reporting.pictures import Picture


class TensorBoardDashboard(Dashboard):
    """Writes images, histograms and text to an event file; a curve is an image."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Writes a table of the facts, and the configuration, as text."""
        rows = [f"| {name} | {value} |" for name, value in facts.items()]
        self.logger.experiment.add_text("facts", "\n".join(["| | |", "|---|---|", *rows]))
        self.logger.experiment.add_text("config", indent(config, "    "))

    def images(
        self, group: str, images: Sequence[ScoredImage], panels: Sequence[Picture], step: int
    ) -> None:
        for image, panel in zip(images, panels, strict=True):
            self._add_image(f"{group}/{image.name}", panel, step)

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        self.logger.experiment.add_histogram(name, values, step)

    def curve(self, name: str, line: PlottedLine, step: int) -> None:
        self._add_image(name, drawn_curve(name, line), step)

    def _add_image(self, name: str, picture: Picture, step: int) -> None:
        self.logger.experiment.add_image(name, picture, step, dataformats="HWC")
