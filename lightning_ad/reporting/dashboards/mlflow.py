"""MLflow: a server, or a local store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import Dashboard, PlottedLine, ScoredImage
from lightning_ad.reporting.dashboards.panels import drawn_curve, drawn_histogram
from lightning_ad.reporting.pictures import Picture


class MLflowDashboard(Dashboard):
    """Shows pictures, curves and histograms as artifacts, with a folder for each step."""

    def begin(self) -> None:
        """Marks the run as running: one that goes on was marked when it ended."""
        self.logger.experiment.update_run(self.logger.run_id, status="RUNNING")

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Sets a tag for each fact, and stores the configuration as a file."""
        for name, value in facts.items():
            self.logger.experiment.set_tag(self.logger.run_id, name, value)
        self.logger.experiment.log_text(self.logger.run_id, config, "config.yaml")

    def images(
        self, group: str, images: Sequence[ScoredImage], panels: Sequence[Picture], step: int
    ) -> None:
        """Stores a file for each panel."""
        for number, panel in enumerate(panels):
            self._log(f"{group}/step_{step:06d}/{number:02d}.png", panel)

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        self._log(f"{name}/step_{step:06d}.png", drawn_histogram(name, values))

    def curve(self, name: str, line: PlottedLine, step: int) -> None:
        self._log(f"{name}/step_{step:06d}.png", drawn_curve(name, line))

    def _log(self, path: str, picture: Picture) -> None:
        self.logger.experiment.log_image(self.logger.run_id, picture, path)
