"""PaDiM (Defard et al., ICPR-W 2020, arXiv 2011.08785): a Gaussian of features at each position of the grid."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map
from lightning_ad.forecast import Plan, Stage, evaluating
from lightning_ad.methods.base import Prediction
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.parallel import each_alone
from lightning_ad.statistics.distributed import rank
from lightning_ad.statistics.gaussian import (
    leave_one_out,
    pack_triangle,
    squared_mahalanobis,
    unpack_triangle,
    whitening,
)
from lightning_ad.statistics.moments import BLOCK, Moments

POSITIONS = 256  # that are factorised at a time
VECTORS = 2048  # that are scored at a time on a CPU: they stay in its cache


class PaDiM(FitOnlyModule):
    """Defaults are those of the paper and its common implementation (ResNet18, 100 of 448 channels, epsilon 0.01).

    Positions do not share what they learn: parts must lie the same way in all images. What is kept is the mean and
    the Cholesky factor of each position's covariance, D (D + 1) / 2 numbers; while fitting, its scatter, D^2 numbers
    of `accumulator`, however many images there are. To score takes the inverse factors too, D^2 float32 numbers.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random ones.
        layers: node names, the finest first; null for the last blocks at strides 4, 8 and 16 (layer1 to layer3 of a
            ResNet). The finest one's grid is that of the Gaussians, deeper ones are replicated onto it.
        dimension: channels that are drawn at random from those of all layers; null for all.
        epsilon: added to each variance (section III-B), above 0.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        storage: of the factors in the checkpoint: float32; float16 halves it, and rounds distances to about 0.1 %.
        accumulator: of the moments while fitting: float64; float32 halves the memory.
        seed: of the channels; the command line sets it from seed_everything.
    """

    channels: Tensor
    count: Tensor
    mean: Tensor
    factors: Tensor

    cumulative = True

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = "IMAGENET1K_V1",
        layers: list[str] | None = None,
        dimension: int | None = 100,
        epsilon: float = 0.01,
        sigma: float = 4.0,
        storage: Literal["float32", "float16"] = "float32",
        accumulator: Literal["float64", "float32"] = "float64",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = Backbone(backbone, weights, layers, strides=(4, 8, 16))
        self.widths = [shape.channels for shape in self.backbone.shapes(256, 256)]
        if dimension is not None and not 1 <= dimension <= sum(self.widths):
            raise UsageError(
                f"model.dimension must be from 1 to {sum(self.widths)}, the channels of the layers "
                f"{', '.join(self.backbone.layers)}, or null for all; {dimension} came"
            )
        if epsilon <= 0 or sigma < 0:
            raise UsageError(f"model.epsilon {epsilon} must be above 0, and model.sigma {sigma} not below it")
        self.epsilon, self.sigma = epsilon, sigma
        self.storage, self.accumulator = getattr(torch, storage), getattr(torch, accumulator)
        drawn = torch.randperm(sum(self.widths), generator=torch.Generator().manual_seed(seed))[:dimension]
        self.register_buffer("channels", drawn.sort().values)
        self.register_buffer("count", torch.tensor(0))  # images of the moments, also before the base says so
        self.register_dynamic_buffer("mean", torch.empty(0, 0, 0))  # [h, w, D]
        self.register_dynamic_buffer("factors", torch.empty(0, 0))  # [h * w, D (D + 1) / 2]
        self._moments: Moments | None = None
        self._inverse: tuple[Tensor, float, Tensor] | None = None

    def begin(self) -> None:
        """Zero moments; where the fit grows, those of before on the first process.

        Raises:
            UsageError: where it is to grow by images of another size.
        """
        shape = self.backbone.shapes(*self.trainer.datamodule.input_size)[0]
        self._grid = (shape.height, shape.width)
        moments = Moments(shape.height * shape.width, len(self.channels), self.accumulator, self.device)
        if self.growing:
            self._check_grid(*self._grid)
            if self.storage == torch.float16:
                rank_zero_warn(
                    "The factors of this PaDiM were stored in float16: what grows from them differs from a fit on all "
                    "images by about as much (0.1 %)."
                )
            if rank() == 0:
                moments.count = int(self.count)
                moments.mean.copy_(self.mean.flatten(0, 1))
                for rows, scatter in zip(self._blocks(POSITIONS), moments.scatter.split(POSITIONS), strict=True):
                    torch.mul(self._covariance(rows), moments.count - 1, out=scatter)
        self._moments = moments
        self.mean, self.factors = self.mean.new_empty(0, 0, 0), self.factors.new_empty(0, 0)
        self._inverse = None

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes a batch into the moments."""
        assert self._moments is not None
        self._moments.update(self._embed(image).flatten(1, 2))

    def kept(self, first: int) -> Iterator[dict[str, Any]]:
        """The moments."""
        assert self._moments is not None
        yield self._moments.state()

    def go_on(self, piece: dict[str, Any]) -> None:
        """Takes the moments."""
        assert self._moments is not None
        self._moments.restore(piece)

    def complete(self) -> None:
        """Merges the moments of the processes and factorises the covariances.

        Raises:
            UserError: where there is a single training image.
        """
        assert self._moments is not None
        moments = self._moments.finish()
        self._moments = None
        if moments.count < 2:
            raise UserError("a covariance needs at least 2 training images, 1 came")
        positions, dimension = moments.mean.shape
        factors = moments.mean.new_empty(positions, dimension * (dimension + 1) // 2, dtype=self.storage)
        for part, scatter in zip(factors.split(POSITIONS), moments.scatter.split(POSITIONS), strict=True):
            part.copy_(pack_triangle(self._factor(scatter / (moments.count - 1))))
        self.count.fill_(moments.count)
        self.mean, self.factors = moments.mean.float().unflatten(0, self._grid), factors

    def describe(self, image: Tensor) -> object:
        """The chosen channels on the finest grid."""
        return self._embed(image)

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds a scatter for each position, however many images there are, and testing its inverse factor."""
        shape, dimension = self.backbone.shapes(plan.height, plan.width)[0], len(self.channels)
        positions, square = shape.height * shape.width, dimension**2
        scatters = self.accumulator.itemsize * positions * square
        factors = (self.storage.itemsize / 2 + 4) * positions * square
        block = self.accumulator.itemsize * BLOCK * positions * dimension
        return [
            Stage("Reading images", scatters + block, plan.images, 2 * plan.images * positions * square),
            Stage("Factorising", scatters + factors / 2, operations=positions * dimension * square),
            evaluating(plan, factors, 2 * positions * square),
        ]

    @property
    def compiled(self) -> list[nn.Module]:
        """The backbone."""
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """The map is of Mahalanobis distances, at least 0; the score is the maximum of the smoothed map."""
        self.require_fitted()
        return self._predict(image, self._squared(image, 1.0), ignore)

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores [B] of training images as though each had not been in the fit; exact but for rounding.

        Raises:
            UserError: for fewer than 3 training images.
        """
        count = int(self.count)
        if count < 3:
            raise UserError(f"to leave an image out takes at least 3 training images; there are {count}")
        squared = self._squared(image, (count - 1) / (count - 2))
        return self._predict(image, leave_one_out(squared, count, 1 / (count - 2)), ignore).score

    def _predict(self, image: Tensor, squared: Tensor, ignore: Tensor | None) -> Prediction:
        with torch.autocast(image.device.type, enabled=False):
            maps = score_map(squared.sqrt(), image.shape[2], image.shape[3], self.sigma, ignore)
        return Prediction(maps, maps.flatten(1).amax(1))

    def _squared(self, image: Tensor, scale: float) -> Tensor:
        """Squared distances [B, h, w], where the covariance is `scale` times what it is, but for epsilon."""
        features = self._embed(image)
        self._check_grid(features.shape[1], features.shape[2])
        mean, inverse = self.mean.flatten(0, 1)[:, None], self._inverse_factors(scale)
        vectors = features.flatten(1, 2).transpose(0, 1)

        positions = min(VECTORS // len(image) + 1, -(-len(mean) // torch.get_num_threads()))

        def of(rows: slice) -> Tensor:
            return squared_mahalanobis(torch.sub(vectors[rows].contiguous(), mean[rows]), inverse[rows])

        with torch.autocast(image.device.type, enabled=False):
            if image.device.type == "cpu":
                squared = torch.cat(each_alone(of, self._blocks(positions)))
            else:
                squared = of(slice(None))
            return squared.T.unflatten(1, self.mean.shape[:2])

    def _embed(self, image: Tensor) -> Tensor:
        """The chosen channels of all layers on the finest grid, float32 [B, h, w, D]."""
        return self.backbone(image, self._chosen)[0]

    def _chosen(self, maps: list[Tensor]) -> list[Tensor]:
        parts, start = [], 0
        for level, width in zip(maps, self.widths, strict=True):
            chosen = self.channels[(self.channels >= start) & (self.channels < start + width)] - start
            start += width
            if len(chosen):
                part = level.permute(0, 2, 3, 1).index_select(3, chosen).permute(0, 3, 1, 2)
                parts.append(part if level is maps[0] else F.interpolate(part, maps[0].shape[2:], mode="nearest"))
        return [torch.cat(parts, 1).permute(0, 2, 3, 1).float()]

    def _inverse_factors(self, scale: float) -> Tensor:
        """Inverse Cholesky factors, float32 [h * w, D, D], for `_squared`; the last ones are kept."""
        # Loading a module and moving it give it new buffers.
        if self._inverse is None or self._inverse[0] is not self.factors or self._inverse[1] != scale:
            dimension = len(self.channels)
            # Products are twice as fast where the inputs of an output lie apart in memory.
            inverse = torch.empty(len(self.factors), dimension, dimension, device=self.factors.device).mT
            for rows, part in zip(self._blocks(POSITIONS), inverse.split(POSITIONS), strict=True):
                factor = self._unpacked(rows) if scale == 1 else self._factor(self._covariance(rows) * scale)
                part.copy_(whitening(factor))
            self._inverse = (self.factors, scale, inverse)
        return self._inverse[2]

    def _blocks(self, positions: int) -> list[slice]:
        return [slice(start, start + positions) for start in range(0, len(self.factors), positions)]

    def _factor(self, covariance: Tensor) -> Tensor:
        """The Cholesky factors of covariances [n, D, D] and epsilon; changes its argument."""
        covariance.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        return torch.linalg.cholesky(covariance)

    def _unpacked(self, rows: slice) -> Tensor:
        return unpack_triangle(self.factors[rows].to(self.accumulator), len(self.channels))

    def _covariance(self, rows: slice) -> Tensor:
        """What was factorised, without epsilon."""
        factor = self._unpacked(rows)
        covariance = factor @ factor.mT
        covariance.diagonal(dim1=1, dim2=2).sub_(self.epsilon)
        return covariance

    def _check_grid(self, height: int, width: int) -> None:
        if (height, width) != tuple(self.mean.shape[:2]):
            raise UsageError(
                f"the Gaussians are of a grid of {self.mean.shape[0]}x{self.mean.shape[1]}, and images of this size "
                f"have {height}x{width}: set data.image_size and data.center_crop as they were in the fit"
            )
