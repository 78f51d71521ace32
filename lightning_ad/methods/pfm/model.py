"""PFM (Wan et al., IEEE TII 2022), PEFM (CASE 2022): where one network mispredicts another."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.cache import FeatureCache
from lightning_ad.features.maps import score_map
from lightning_ad.methods.layers import Norm
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.methods.pfm.networks import Direction, Mapping, Position, initialise


class PFM(LearnedModule):
    """Predicts the features of one frozen network from those of another.

    At each level a mapping learns, on good images, to predict one network's features from the
    other's. Where it errs, the image is anomalous. `direction: forward` with one of `levels` is the
    basic PFM. Defaults are those of the released code: multi-hierarchical, bidirectional, ResNet34
    to ResNet50.

    Args:
        source: a torchvision model, or timm/<name>.
        target: a torchvision model, or timm/<name>.
        source_weights: the name of the source's weights, the path of a state dict, or null for
            random ones.
        target_weights: the name of the target's weights, the path of a state dict, or null for
            random ones.
        source_layers: node names, one for each level; null for the last blocks at strides 4, 8
            and 16.
        target_layers: node names, one for each level; null for the last blocks at strides 4, 8
            and 16. Grids of the two networks that differ are resized to the larger one.
        levels: the levels that are used, counted from 1.
        latents: width of the latent layer, for each level.
        direction: forward (source to target), backward, or bidirectional.
        share_latent: one latent layer for both directions.
        fusion: how the levels' maps are combined: mean, or product (PEFM).
        position: position encoding of the mappings' inputs (PEFM): none, add or concat.
        norm: batch, or group, which does not mix the images of a batch.
        learning_rates: of Adam, for each level.
        weight_decay: of Adam.
        optimizer: replaces Adam, with its own learning rate.
        lr_scheduler: a schedule, stepped after each epoch; null for a constant learning rate.
        cache_gb: features of training images are kept in main memory, up to this many GiB a
            process.
        channels_last: lay tensors out channel by channel: faster on a CPU, and the same except for
            rounding.
        seed: of the first weights; the command line sets it from seed_everything.
    """

    def __init__(
        self,
        source: str = "resnet34",
        target: str = "resnet50",
        source_weights: str | None = "IMAGENET1K_V1",
        target_weights: str | None = "IMAGENET1K_V1",
        source_layers: list[str] | None = None,
        target_layers: list[str] | None = None,
        levels: tuple[int, ...] = (1, 2, 3),
        latents: tuple[int, ...] = (200, 400, 900),
        direction: Direction = "bidirectional",
        share_latent: bool = True,
        fusion: Literal["mean", "product"] = "mean",
        position: Position = "none",
        norm: Norm = "batch",
        learning_rates: tuple[float, ...] = (3e-3, 3e-4, 3e-4),
        weight_decay: float = 1e-5,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        cache_gb: float = 0.0,
        channels_last: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        _check(levels, source_layers, target_layers, latents, learning_rates)
        self.levels = list(levels)
        self.source = _backbone("source", source, source_weights, source_layers, levels)
        self.target = _backbone("target", target, target_weights, target_layers, levels)
        source_shapes = self.source.shapes(256, 256)
        target_shapes = self.target.shapes(256, 256)
        self.mappings = nn.ModuleDict()
        for level, s, t in zip(levels, source_shapes, target_shapes, strict=True):
            latent = latents[level - 1]
            mapping = Mapping(
                s.channels, t.channels, latent, direction, share_latent, position, norm
            )
            # A level that is trained alone starts as it does among others.
            generator = torch.Generator().manual_seed(seed * 1_000_003 + level)
            initialise(mapping, generator)
            self.mappings[str(level)] = mapping
        self.memory_format = torch.contiguous_format
        if channels_last:
            self.memory_format = torch.channels_last
            self.to(memory_format=torch.channels_last)
        self.fusion = fusion
        self.learning_rates = learning_rates
        self.weight_decay = weight_decay
        self.cache_gb = cache_gb
        self._cache: FeatureCache | None = None

    @property
    def compile_targets(self) -> list[nn.Module]:
        return [self.source.body, self.target.body, *self.mappings.values()]

    def on_train_start(self) -> None:
        """Empties the cache: its rows are of one training set, size and precision."""
        super().on_train_start()
        self._cache = None
        if self.cache_gb > 0:
            self._cache = FeatureCache(self.cache_gb)

    def on_train_end(self) -> None:
        """Frees the cache's memory, which the test does not need."""
        super().on_train_end()
        self._cache = None

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Maps are squared errors of unit vectors, at least 0; scores are their maxima."""
        height, width = image.shape[2:]
        maps = []
        features = self._features(image)
        for pairs in self.estimates(features).values():
            errors = []
            for estimate, wanted in pairs.values():
                difference = estimate.float() - wanted
                errors.append(difference.square().sum(1))
            grid = torch.stack(errors).mean(0)
            maps.append(score_map(grid, height, width, 0, ignore))
        levels = torch.stack(maps)
        fused = levels.mean(0) if self.fusion == "mean" else levels.prod(0)
        return Prediction(fused, fused.flatten(1).amax(1))

    @property
    def loss_names(self) -> Sequence[str]:
        names: list[str] = []
        for level, mapping in self.mappings.items():
            names += [f"loss_{level}_{way}" for way in mapping.decoders]
        return names

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error of each level and direction, of equal weight."""
        losses = {}
        features = self._training_features(batch)
        for level, pairs in self.estimates(features).items():
            for way, (estimate, wanted) in pairs.items():
                losses[f"loss_{level}_{way}"] = F.mse_loss(estimate.float(), wanted)
        return losses

    def _training_features(self, batch: Batch) -> list[Tensor]:
        """The features of a batch, from the cache if there is one, on the device."""
        if self._cache is not None and self.training:
            features = self._cache.get(
                batch.index.tolist(), lambda places: self._features(batch.image[places])
            )
        else:
            features = self._features(batch.image)
        return [
            feature.to(self.device).contiguous(memory_format=self.memory_format)
            for feature in features
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for each level, with its learning rate: the same as an optimizer for each."""
        groups = []
        for level, mapping in self.mappings.items():
            learning_rate = self.learning_rates[int(level) - 1]
            groups.append({"params": mapping.parameters(), "lr": learning_rate})
        return groups

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, weight_decay=self.weight_decay)

    def _features(self, image: Tensor) -> list[Tensor]:
        """Unit vectors on common grids: those of the source's levels, then the target's."""
        with torch.no_grad():
            image = image.contiguous(memory_format=self.memory_format)
            source = self.source(image)
            target = self.target(image)
            for level, (s, t) in enumerate(zip(source, target, strict=True)):
                height = max(s.shape[2], t.shape[2])
                width = max(s.shape[3], t.shape[3])
                source[level] = _unit_vectors(s, height, width)
                target[level] = _unit_vectors(t, height, width)
            return [*source, *target]

    def estimates(self, features: list[Tensor]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """Returns estimates and what they estimate, [B, C, h, w] each, by level and direction."""
        count = len(self.mappings)
        sources = features[:count]
        targets = features[count:]
        estimates = {}
        for level, source, target in zip(self.mappings, sources, targets, strict=True):
            estimates[level] = self.mappings[level](source, target)
        return estimates


def _unit_vectors(features: Tensor, height: int, width: int) -> Tensor:
    """Resizes features [B, C, h, w] to a grid, and normalises them over the channels."""
    features = features.float()
    grid = (height, width)
    if features.shape[2:] != grid:
        features = F.interpolate(features, grid, mode="bilinear", align_corners=False)
    return F.normalize(features, dim=1)


def _backbone(
    role: str, name: str, weights: str | None, layers: list[str] | None, levels: tuple[int, ...]
) -> Backbone:
    if layers is not None:
        layers = [layers[level - 1] for level in levels]
    strides = [2 ** (level + 1) for level in levels]
    # With blocks of a fixed size, features are the same bits in every batch; on a GPU that costs
    # too much.
    blocks = {"cpu": 1}
    return Backbone(name, weights, layers, strides, blocks, argument=f"model.{role}_")


def _check(levels: tuple[int, ...], *by_level: Any) -> None:
    distinct = set(levels)
    if not levels or len(distinct) != len(levels) or min(levels) < 1:
        raise UsageError(f"model.levels must be distinct numbers from 1, got {list(levels)}")
    names = ("source_layers", "target_layers", "latents", "learning_rates")
    for name, values in zip(names, by_level, strict=True):
        if values is not None and len(values) < max(levels):
            raise UsageError(
                f"model.{name} must have a value for each level up to {max(levels)}, got "
                f"{list(values)}"
            )
