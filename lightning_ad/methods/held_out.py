"""Scores of held-out images, from which p-values and thresholds are calibrated."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_ad.data.sample import Prediction
from lightning_ad.features.maps import hide
from lightning_ad.system.distributed import gather_rows


class ImageScores(NamedTuple):
    """One value for each held-out image, in main memory.

    Attributes:
        score: float32 [N], the largest of an image's tiles.
        maximum: float32 [N], the highest value of the image's map.
        label: float32 [N], 0 good, 1 anomalous.
    """

    score: Tensor
    maximum: Tensor
    label: Tensor


class HeldOutScores:
    """Collects scores during a validation, batch by batch on each process."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []  # [B, 4]: score, label, number of the image, maximum

    def add(
        self, prediction: Prediction, label: Tensor, image: Tensor, ignore: Tensor | None
    ) -> None:
        """Takes the prediction for a batch; `image` int64 [B], the same for tiles of one."""
        maximum = hide(prediction.map, ignore).flatten(1).amax(1)
        columns = (prediction.score, label, image, maximum)
        self._rows.append(torch.stack([column.float() for column in columns], 1))

    def gather(self, device: torch.device) -> ImageScores:
        """Returns the scores of all processes, one for each image and label, and forgets them."""
        own = torch.cat([torch.empty(0, 4, device=device), *self._rows])
        self._rows.clear()
        rows = gather_rows(own)
        images, place = rows[:, 1:3].unique(dim=0, return_inverse=True)
        columns = rows[:, [0, 3]]
        place = place[:, None].expand(-1, 2)
        highest = columns.new_zeros(len(images), 2)
        highest = highest.scatter_reduce(0, place, columns, "amax", include_self=False).cpu()
        return ImageScores(highest[:, 0], highest[:, 1], images[:, 0].cpu())
