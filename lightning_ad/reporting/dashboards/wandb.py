"""Weights & Biases, online or offline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import CLASSES, Dashboard, Scene
from lightning_ad.reporting.pictures import Picture


class WandbDashboard(Dashboard):
    """Images with masks that can be switched on and off, their heat maps, histograms, and lines of a table."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """In the run's configuration."""
        self.logger.experiment.config.update({**facts, "config": config}, allow_val_change=True)

    def scenes(
        self, group: str, scenes: Sequence[Scene], panels: Sequence[Picture], step: int
    ) -> None:
        """The images with the masks `truth` and `verdict`, and the panels."""
        from wandb import Image

        images = []
        for scene in scenes:
            masks = {
                "truth": scene.truth,
                **({} if scene.called is None else {"verdict": scene.called}),
            }
            told = {
                k: {"mask_data": mask.astype(np.uint8), "class_labels": CLASSES}
                for k, mask in masks.items()
            }
            images.append(
                Image(scene.image, caption=f"{scene.score:#.4g} {scene.name}", masks=told)
            )
        heat = [
            Image(panel, caption=scene.name) for scene, panel in zip(scenes, panels, strict=True)
        ]
        self._log(step, **{f"{group}/images": images, f"{group}/heat_maps": heat})

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        """A histogram."""
        from wandb import Histogram

        self._log(step, **{name: Histogram(values.tolist())})

    def curve(
        self, name: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str], step: int
    ) -> None:
        """A line."""
        from wandb import Table, plot

        table = Table(data=[list(point) for point in zip(x, y, strict=True)], columns=list(labels))
        self._log(step, **{name: plot.line(table, *labels, title=name)})

    def _log(self, step: int, **content: Any) -> None:
        self.logger.experiment.log({**content, "trainer/global_step": step})
