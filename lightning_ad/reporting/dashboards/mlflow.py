"""MLflow: a server, or a local store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import Dashboard, Scene
from lightning_ad.reporting.dashboards.panels import drawn_curve, drawn_histogram
from lightning_ad.reporting.pictures import Picture


class MLflowDashboard(Dashboard):
    """Pictures, curves and histograms are artifacts, those of a step in a folder of its own."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Tags, and a file."""
        for name, value in facts.items():
            self.logger.experiment.set_tag(self.logger.run_id, name, value)
        self.logger.experiment.log_text(self.logger.run_id, config, "config.yaml")

    def scenes(
        self, group: str, scenes: Sequence[Scene], panels: Sequence[Picture], step: int
    ) -> None:
        """A file for each."""
        for number, panel in enumerate(panels):
            self._log(f"{group}/step_{step:06d}/{number:02d}.png", panel)

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """Its drawing."""
        self._log(f"{name}/step_{step:06d}.png", drawn_histogram(name, values))

    def curve(
        self, name: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str], step: int
    ) -> None:
        """Its drawing."""
        self._log(f"{name}/step_{step:06d}.png", drawn_curve(name, x, y, labels))

    def _log(self, path: str, picture: Picture) -> None:
        self.logger.experiment.log_image(self.logger.run_id, picture, path)
