"""Reads an image and its mask; one geometry for both."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.reading import read_image, read_mask
from lightning_ad.data.sample import Batch, Sample
from lightning_ad.data.sampler import Key
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import Textures


class AnomalyDataset(Dataset[Batch]):
    """The samples of one split as batches of one.

    With a `synthesis`, each item also holds a recipe for a synthetic anomaly, a function of (seed, epoch, index).

    Raises:
        DataError: on reading, naming the file.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: Geometry,
        synthesis: Synthesis | None = None,
        textures: Textures | None = None,
        seed: int = 0,
    ) -> None:
        self.samples = samples
        self.geometry = geometry
        self.synthesis = synthesis
        self.textures = textures
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key | int) -> Batch:
        key = Key(key) if isinstance(key, int) else key
        sample = self.samples[key.index]
        full = read_image(sample.path)
        if sample.mask_path is None:
            mask = torch.zeros(self.geometry.output, dtype=torch.bool)
        else:
            height, width = full.shape[-2:]
            mask = self.geometry.mask(read_mask(sample.mask_path, (height, width), sample.mask_threshold))
        image = self.geometry.image(full)
        recipe = {}
        if self.synthesis is not None:
            rng = np.random.default_rng([self.seed, key.epoch, key.index])
            drawn = self.synthesis.draw(rng, *self.geometry.output, self.textures)
            recipe = {name: value[None] for name, value in drawn.items()}
        return Batch(
            image=image[None],
            label=torch.tensor([sample.label]),
            mask=mask[None],
            index=torch.tensor([-1 if key.padding else key.index]),
            path=[sample.path],
            defect=[sample.defect],
            recipe=recipe,
        )
