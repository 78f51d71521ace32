"""PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265): a coreset of patch features, scored by nearest neighbours."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone, one_thread
from lightning_ad.features.maps import score_map
from lightning_ad.features.patches import patch_features
from lightning_ad.methods.base import Prediction
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.progress import progress
from lightning_ad.statistics.coreset import k_center_greedy, random_projection
from lightning_ad.statistics.distributed import broadcast
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.statistics.store import VectorStore


class PatchCore(FitOnlyModule):
    """Defaults are those of the released code (WideResNet50-2, 10 % coreset, squared distances, no re-weighting).

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random ones.
        layers: node names; null for the last blocks at strides 8 and 16 (layer2 and layer3 of a ResNet).
        patch_size: side of the neighbourhood that a patch feature describes (section 3.1), odd.
        layer_dimension: length to which each layer's patch vector is pooled; null for the plain average of the
            neighbourhood, layers concatenated (with dimension null too).
        dimension: length of a patch feature.
        coreset_ratio: the share of all training patches that is kept, above 0, at most 1.
        selection: approximate, from 10 random starting points as released; greedy, from one.
        projection: dimension of the random projection in which the coreset is selected; null for none.
        neighbours: a patch's score is the mean distance to this many nearest patches.
        distance: squared, as released, or plain Euclidean distances.
        reweight: the b of the paper's image score (section 3.3, equation 7); 0 for the plain maximum, as released.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        seed: of the projection and the starting points; the command line sets it from seed_everything.
    """

    bank: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        weights: str | None = "IMAGENET1K_V1",
        layers: list[str] | None = None,
        patch_size: int = 3,
        layer_dimension: int | None = 1024,
        dimension: int | None = 1024,
        coreset_ratio: float = 0.1,
        selection: Literal["approximate", "greedy"] = "approximate",
        projection: int | None = 128,
        neighbours: int = 1,
        distance: Literal["squared", "plain"] = "squared",
        reweight: int = 0,
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(patch_size, layer_dimension, dimension, coreset_ratio)
        at_least = {"neighbours": (neighbours, 1), "projection": (projection or 1, 1), "sigma": (sigma, 0)}
        for name, (came, least) in {**at_least, "dimension": (dimension or 1, 1)}.items():
            if came < least:
                raise UsageError(f"model.{name} must be at least {least}, {came} came")
        if reweight < 0 or reweight == 1:
            raise UsageError(f"model.reweight must be 0 for none, or at least 2, {reweight} came")
        self.save_hyperparameters()
        self.backbone = Backbone(backbone, weights, layers, strides=(8, 16))
        self.patch_size, self.layer_dimension, self.dimension = patch_size, layer_dimension, dimension
        self.coreset_ratio, self.selection, self.projection = coreset_ratio, selection, projection
        self.neighbours, self.distance, self.reweight = neighbours, distance, reweight
        self.sigma, self.seed = sigma, seed
        self.register_dynamic_buffer("bank", torch.empty(0, 0))
        self._store: VectorStore | None = None

    def begin(self) -> None:
        """An empty bank, and room for the vectors of all images that this process will see."""
        self.bank = torch.empty(0, 0, device=self.device)
        self._store = VectorStore(len(self.trainer.train_dataloader.dataset))

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Stores the patch features of a batch in main memory; the same bits on any number of processes."""
        assert self._store is not None
        with one_thread():
            features = self._patches(image)[0]
        self._store.put(index, features)

    def complete(self) -> None:
        """Selects the coreset on the first process and gives it to all."""
        assert self._store is not None
        vectors = self._store.collect(self.device)
        self._store = None
        with one_thread():
            bank = None if vectors is None else self._select(vectors.flatten(0, 1))
        self.bank = broadcast(bank, self.device)

    @property
    def compiled(self) -> list[nn.Module]:
        """The backbone."""
        return [self.backbone.body]

    def forward(self, image: Tensor) -> Prediction:
        """Patch scores are distances to the bank, at least 0; the image score is their maximum."""
        self.require_fitted()
        features, grid = self._patches(image)
        with torch.autocast(image.device.type, enabled=False):  # distances and maps in float32
            return self._score(features, grid, (image.shape[2], image.shape[3]))

    def _score(self, features: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Prediction:
        queries = features.flatten(0, 1)
        squared, found = nearest_neighbours(queries, self.bank, min(self.neighbours, len(self.bank)))
        distances = squared if self.distance == "squared" else squared.sqrt()
        scores = distances.mean(1).view(len(features), -1)
        score, worst = scores.max(1)
        if self.reweight:
            rows = worst + torch.arange(len(features), device=worst.device) * scores.shape[1]
            score = score * self._weight(queries[rows], found[rows, 0])
        return Prediction(score_map(scores.view(-1, *grid), *size, self.sigma), score)

    def _patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        maps = self.backbone(image)
        features = patch_features(maps, self.patch_size, self.layer_dimension, self.dimension)
        return features.float(), (maps[0].shape[2], maps[0].shape[3])

    def _select(self, vectors: Tensor) -> Tensor:
        count = int(len(vectors) * self.coreset_ratio)
        if count < 1:
            raise UserError(
                f"a coreset_ratio of {self.coreset_ratio} of {len(vectors)} patches is none; "
                f"set model.coreset_ratio to at least {1 / len(vectors):.2g}"
            )
        if count == len(vectors):
            return vectors
        generator = torch.Generator().manual_seed(self.seed)
        projected = vectors
        if self.projection is not None:
            matrix = random_projection(vectors.shape[1], self.projection, generator).to(self.device)
            parts = [part.to(self.device) @ matrix for part in progress(vectors.split(65536), "Projecting")]
            projected = torch.cat(parts)
        selected = k_center_greedy(
            projected, count, generator, 10 if self.selection == "approximate" else None, _selecting
        )
        return vectors[selected.to(vectors.device)]

    def _weight(self, queries: Tensor, nearest: Tensor) -> Tensor:
        """1 - exp|q - m*| / sum over the b bank patches m nearest to m* of exp|q - m| (equation 7)."""
        around = nearest_neighbours(self.bank[nearest], self.bank, min(self.reweight, len(self.bank)))[1]
        distances = (queries[:, None] - self.bank[around]).norm(dim=2)
        return 1 - distances.softmax(1)[:, 0]


def _selecting(steps: Iterable[int]) -> Iterable[int]:
    return progress(steps, "Selecting the coreset", unit="patch")


def _check(patch_size: int, layer_dimension: int | None, dimension: int | None, coreset_ratio: float) -> None:
    if patch_size < 1 or patch_size % 2 == 0:
        raise UsageError(f"model.patch_size must be odd and positive, {patch_size} came")
    if (layer_dimension is None) != (dimension is None):
        raise UsageError("set both model.layer_dimension and model.dimension, or both to null")
    if not 0 < coreset_ratio <= 1:
        raise UsageError(f"model.coreset_ratio must be above 0 and at most 1, {coreset_ratio} came")
