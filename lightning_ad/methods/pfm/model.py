"""PFM (Wan et al., IEEE TII 2022) and PEFM (Wan et al., IEEE CASE 2022): where one network misjudges another."""

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
    """Defaults are those of the released code: multi-hierarchical, bidirectional, ResNet34 to ResNet50.

    Two frozen networks look at an image; at each level a mapping learns, on good images, to tell one's features from
    the other's. Where it errs, the image is anomalous. `direction: forward` with one of `levels` is the basic PFM.

    Args:
        source: a torchvision model, or timm/<name>.
        target: likewise.
        source_weights: the name of its weights, the path of a state dict, or null for random ones.
        target_weights: likewise.
        source_layers: node names, one for each level; null for the last blocks at strides 4, 8 and 16.
        target_layers: likewise. Grids of the two that differ are brought to the larger one.
        levels: which of them are used, counted from 1.
        latents: width of the latent layer, for each level.
        direction: forward (source to target), backward, or bidirectional.
        share_latent: one latent layer for both directions.
        fusion: of the levels' maps: mean, or product (PEFM).
        position: position encoding of the mappings' inputs (PEFM): none, add or concat.
        norm: batch, or group, which does not mix the images of a batch.
        learning_rates: of Adam, for each level.
        weight_decay: of Adam.
        optimizer: another one instead of Adam, with its own learning rate.
        lr_scheduler: a schedule, stepped after each epoch; null for a constant learning rate.
        cache_gb: features of training images are kept in main memory, up to this many GiB a process.
        channels_last: lay tensors out channel by channel: faster on a CPU, and the same but for rounding.
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
        self.levels, self.fusion = list(levels), fusion
        strides = [2 ** (level + 1) for level in levels]
        # Blocks of one fixed size keep features the same bits in every batch; on a GPU they cost too much for that.
        blocks = {"cpu": 1}
        layers = _chosen(source_layers, levels), _chosen(target_layers, levels)
        self.source = Backbone(
            source, source_weights, layers[0], strides, blocks, argument="model.source_"
        )
        self.target = Backbone(
            target, target_weights, layers[1], strides, blocks, argument="model.target_"
        )
        shapes = zip(self.source.shapes(256, 256), self.target.shapes(256, 256), strict=True)
        self.mappings = nn.ModuleDict()
        for level, (s, t) in zip(levels, shapes, strict=True):
            latent = latents[level - 1]
            mapping = Mapping(
                s.channels, t.channels, latent, direction, share_latent, position, norm
            )
            # A level of its own starts as it does among others.
            initialise(mapping, torch.Generator().manual_seed(seed * 1_000_003 + level))
            self.mappings[str(level)] = mapping
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.learning_rates, self.weight_decay = learning_rates, weight_decay
        self.cache_gb = cache_gb
        self._cache: FeatureCache | None = None

    @property
    def compile_targets(self) -> list[nn.Module]:
        """Both backbones and the mappings."""
        return [self.source.body, self.target.body, *self.mappings.values()]

    def on_train_start(self) -> None:
        """An empty cache: rows are of this training set, at this size and precision."""
        super().on_train_start()
        self._cache = FeatureCache(self.cache_gb) if self.cache_gb > 0 else None

    def on_train_end(self) -> None:
        """The test does not need the cache's memory."""
        super().on_train_end()
        self._cache = None

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """The map is the squared error of unit vectors, at least 0; the score is its maximum."""
        height, width = image.shape[2:]
        maps = []
        for pairs in self.estimates(self._features(image)).values():
            grid = torch.stack([(a.float() - b).square().sum(1) for a, b in pairs.values()]).mean(0)
            maps.append(score_map(grid, height, width, 0, ignore))
        together = torch.stack(maps)
        fused = together.mean(0) if self.fusion == "mean" else together.prod(0)
        return Prediction(fused, fused.flatten(1).amax(1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error of each level and direction, of equal weight."""
        if self._cache is not None and self.training:
            features = self._cache.get(
                batch.index.tolist(), lambda places: self._features(batch.image[places])
            )
        else:
            features = self._features(batch.image)
        features = [
            f.to(self.device).contiguous(memory_format=self.memory_format) for f in features
        ]
        return {
            f"loss_{level}_{way}": F.mse_loss(estimate.float(), wanted)
            for level, pairs in self.estimates(features).items()
            for way, (estimate, wanted) in pairs.items()
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for each level, with its learning rate: the same as an optimizer for each."""
        return [
            {"params": mapping.parameters(), "lr": self.learning_rates[int(level) - 1]}
            for level, mapping in self.mappings.items()
        ]

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(groups, weight_decay=self.weight_decay)

    def _features(self, image: Tensor) -> list[Tensor]:
        """Unit vectors over the channels: the source's at each level, then the target's, on common grids."""
        with torch.no_grad():
            image = image.contiguous(memory_format=self.memory_format)
            source, target = self.source(image), self.target(image)
            for k, (s, t) in enumerate(zip(source, target, strict=True)):
                grid = [max(sides) for sides in zip(s.shape[2:], t.shape[2:], strict=True)]
                source[k], target[k] = (
                    F.normalize(_resized(x.float(), grid), dim=1) for x in (s, t)
                )
            return [*source, *target]

    def estimates(self, features: list[Tensor]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """Estimates and what they estimate, [B, C, h, w] each, by level and direction."""
        count = len(self.mappings)
        pairs = zip(self.mappings.items(), features[:count], features[count:], strict=True)
        return {level: mapping(s, t) for (level, mapping), s, t in pairs}


def _resized(x: Tensor, grid: list[int]) -> Tensor:
    if list(x.shape[2:]) == grid:
        return x
    return F.interpolate(x, grid, mode="bilinear", align_corners=False)


def _chosen(layers: list[str] | None, levels: tuple[int, ...]) -> list[str] | None:
    return None if layers is None else [layers[level - 1] for level in levels]


def _check(levels: tuple[int, ...], *by_level: Any) -> None:
    names = ("source_layers", "target_layers", "latents", "learning_rates")
    if not levels or len(set(levels)) != len(levels) or min(levels) < 1:
        raise UsageError(f"model.levels are distinct numbers from 1; {list(levels)} came")
    for name, values in zip(names, by_level, strict=True):
        if values is not None and len(values) < max(levels):
            raise UsageError(
                f"model.{name} must have a value for each level up to {max(levels)}; {list(values)} came"
            )
