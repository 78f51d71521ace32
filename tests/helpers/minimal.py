"""A fit-only method with the four functions that it must have."""

import torch

from lightning_ad.data.sample import Prediction
from lightning_ad.features.maps import score_map
from lightning_ad.methods import FitOnlyModule
from lightning_ad.system.distributed import gather_rows, sum_over_processes


class Minimal(FitOnlyModule):
    """Compares with the mean image."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.register_dynamic_buffer("mean", torch.empty(0))

    def begin(self):
        size = self.data.input_size
        self.total = torch.zeros(3, *size, dtype=torch.float64, device=self.device)
        self.count = 0

    def observe(self, image, index):
        self.total += image.double().sum(0)
        self.count += len(image)

    def complete(self):
        total = gather_rows(self.total[None]).sum(0)
        self.mean = (total / sum_over_processes(self.count, self.device)).float()

    def forward(self, image, ignore=None):
        self.require_fitted()
        distances = (image - self.mean).norm(dim=1)
        maps = score_map(distances, image.shape[2], image.shape[3], 0.0, ignore)
        return Prediction(maps, maps.flatten(1).amax(1))
