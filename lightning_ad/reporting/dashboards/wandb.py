"""Weights & Biases, online or offline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ad.reporting.dashboards.base import CLASSES, Dashboard, PlottedLine, ScoredImage
from lightning_ad.reporting.pictures import Picture


class WandbDashboard(Dashboard):
    """Logs images with masks that can be switched on and off, heat maps, histograms and lines."""

    def facts(self, facts: Mapping[str, Any], config: str) -> None:
        """Adds the facts and the configuration to the configuration of the W&B run."""
        self.logger.experiment.config.update({**facts, "config": config}, allow_val_change=True)

    def images(
        self, group: str, images: Sequence[ScoredImage], panels: Sequence[Picture], step: int
    ) -> None:
        """Logs the images with the masks `truth` and `verdict`, and the panels."""
        from wandb import Image

        with_masks = []
        heat_maps = []
        for image, panel in zip(images, panels, strict=True):
            caption = f"{image.score:#.4g} {image.name}"
            with_masks.append(Image(image.image, caption=caption, masks=_masks(image)))
            heat_maps.append(Image(panel, caption=image.name))
        self._log(step, **{f"{group}/images": with_masks, f"{group}/heat_maps": heat_maps})

    def distribution(self, name: str, values: NDArray[np.float32], step: int) -> None:
        from wandb import Histogram

        self._log(step, **{name: Histogram(values.tolist())})

    def curve(self, name: str, line: PlottedLine, step: int) -> None:
        from wandb import Table, plot

        points = [list(point) for point in zip(line.x, line.y, strict=True)]
        table = Table(data=points, columns=[line.x_label, line.y_label])
        drawn = plot.line(table, line.x_label, line.y_label, title=name)
        self._log(step, **{name: drawn})

    def pause(self) -> None:
        """Marks the run as pre-empted: the exit code of a stopped run would mark it as failed."""
        self.logger.experiment.mark_preempting()

    def _log(self, step: int, **content: Any) -> None:
        self.logger.experiment.log({**content, "trainer/global_step": step})


def _masks(image: ScoredImage) -> dict[str, dict[str, Any]]:
    """Returns the masks of an image in the format of W&B, by name."""
    masks = {"truth": image.truth}
    if image.called is not None:
        masks["verdict"] = image.called
    described = {}
    for name, mask in masks.items():
        described[name] = {"mask_data": mask.astype(np.uint8), "class_labels": CLASSES}
    return described
