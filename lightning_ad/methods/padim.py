"""PaDiM (Defard et al., ICPR-W 2020, arXiv 2011.08785): a Gaussian of features at each position of the grid."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map
from lightning_ad.forecast import Plan, Stage, evaluating
from lightning_ad.methods.base import Prediction
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.statistics.distributed import rank
from lightning_ad.statistics.gaussian import leave_one_out
from lightning_ad.statistics.moments import BLOCK
from lightning_ad.statistics.nested import covariances_of, factorise, nested_squared_distances, whitening_of
from lightning_ad.statistics.nesting import NestedMoments, Nesting, nesting


class PaDiM(FitOnlyModule):
    """Defaults are those of the paper and its common implementation (ResNet18, 100 of 448 channels, epsilon 0.01).

    Positions do not share what they learn: parts must lie the same way in all images. What is kept is the mean and
    the Cholesky factor of each position's covariance; while fitting its scatter, as many numbers of `accumulator`,
    however many images there are; to score the inverse factors too, in float32. Of coarse layers all of it is kept once
    for each cell, not for each position in it (`statistics.nested`).

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
    grids: Tensor
    means: Tensor
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
        self.register_buffer("grids", torch.zeros(len(self.widths), 2, dtype=torch.int64))  # of the layers
        # Of all stages of `statistics.nested`, one after another: [n, d], and the last rows of factors [n, d, D].
        self.register_dynamic_buffer("means", torch.empty(0))
        self.register_dynamic_buffer("factors", torch.empty(0))
        self._moments: NestedMoments | None = None
        self._inverse: tuple[Tensor, float, list[list[Tensor]]] | None = None

    def begin(self) -> None:
        """Zero moments; where the fit grows, those of before on the first process.

        Raises:
            UsageError: where it is to grow by images of another size.
        """
        grids = self._grids_of(*self.trainer.datamodule.input_size)
        if self.growing:
            self._check_grids(grids)
        self.grids.copy_(torch.tensor(grids))
        self._moments = NestedMoments(self._nested, self._dimensions(), self.accumulator, self.device)
        if self.growing:
            if self.storage == torch.float16:
                rank_zero_warn(
                    "The factors of this PaDiM were stored in float16: what grows from them differs from a fit on all "
                    "images by about as much (0.1 %)."
                )
            if rank() == 0:
                self._moments.count = int(self.count)
                self._moments.means = [mean.to(self.accumulator) for mean in self._own_means()]
                self._moments.scatters = self._covariances(int(self.count) - 1)
        self.means, self.factors = self.means.new_empty(0), self.factors.new_empty(0)
        self._inverse = None

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes a batch into the moments."""
        assert self._moments is not None
        self._moments.update(self._embed(image))

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
        moments, self._moments = self._moments.finish(), None
        if moments.count < 2:
            raise UserError("a covariance needs at least 2 training images, 1 came")
        for blocks in moments.scatters:
            for block in blocks:
                block.div_(moments.count - 1)
        self._regularise(moments.scatters)
        factorise(self._nested, moments.scatters)
        self.means = torch.cat([mean.flatten() for mean in moments.means]).float()
        self.factors = torch.cat([b.flatten().to(self.storage) for blocks in moments.scatters for b in blocks])
        self.count.fill_(moments.count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises WeightsError for a checkpoint of before Gaussians were nested."""
        super().on_load_checkpoint(checkpoint)
        if "grids" not in checkpoint["state_dict"]:
            raise WeightsError("this checkpoint was written by an earlier version of lightning_ad; train again")

    def describe(self, image: Tensor) -> object:
        """The chosen channels."""
        return self._embed(image)

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds the scatters, however many images there are, and testing the inverse factors."""
        cells = self._nesting_of(self._grids_of(plan.height, plan.width)).counts()
        numbers = vectors = solving = above = 0
        for n, own in zip(cells, self._dimensions(), strict=True):
            above += own
            vectors, numbers, solving = vectors + n * own, numbers + n * own * above, solving + n * own * above**2
        scatters, factors = self.accumulator.itemsize * numbers, self.storage.itemsize * numbers
        return [
            Stage("Reading images", scatters + 4 * 2 * BLOCK * vectors, plan.images, 2 * plan.images * numbers),
            Stage("Factorising", scatters + factors, operations=2 * solving),
            evaluating(plan, factors + 4 * numbers, 2 * numbers),
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
        self._check_grids(self._grids_of(image.shape[2], image.shape[3]))
        flat, means = self._embed(image), self._own_means()
        with torch.autocast(image.device.type, enabled=False):
            squared = nested_squared_distances(self._nested, flat, means, self._inverse_factors(scale))
        return squared.unflatten(1, self.grids[0].tolist())

    def _embed(self, image: Tensor) -> Tensor:
        """The chosen channels as `Nesting.flat` gives them, float32."""
        chosen, nested = self._chosen(), self._nesting_of(self._grids_of(image.shape[2], image.shape[3]))

        def flat(maps: list[Tensor]) -> list[Tensor]:
            levels = [(maps[level].permute(0, 2, 3, 1).flatten(1, 2), channels) for level, channels in chosen]
            return [nested.flat([level.index_select(2, channels).float() for level, channels in levels])]

        return self.backbone(image, flat)[0]

    def _chosen(self) -> list[tuple[int, Tensor]]:
        """The layers that have chosen channels, the coarsest first, and which those are."""
        chosen, start = [], 0
        for level, width in enumerate(self.widths):
            own = self.channels[(self.channels >= start) & (self.channels < start + width)] - start
            chosen += [(level, own)] * (len(own) > 0)
            start += width
        return chosen[::-1]

    def _dimensions(self) -> list[int]:
        """Of each stage, how many dimensions are its own."""
        return [len(channels) for _, channels in self._chosen()]

    def _grids_of(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grids of the layers, of images of a size."""
        return tuple((shape.height, shape.width) for shape in self.backbone.shapes(height, width))

    def _nesting_of(self, grids: tuple[tuple[int, int], ...]) -> Nesting:
        return nesting(tuple(grids[level] for level, _ in self._chosen()), grids[0], self.device)

    @property
    def _nested(self) -> Nesting:
        return self._nesting_of(tuple((height, width) for height, width in self.grids.tolist()))

    def _inverse_factors(self, scale: float) -> list[list[Tensor]]:
        """Of each stage, for `_squared`; the last ones are kept."""
        # Loading a module and moving it give it new buffers.
        if self._inverse is None or self._inverse[0] is not self.factors or self._inverse[1] != scale:
            rows = self._rows()
            if scale != 1:
                rows = self._covariances(scale)
                self._regularise(rows)
                factorise(self._nested, rows)
            self._inverse = (self.factors, scale, whitening_of(self._nested, rows, self.accumulator))
        return self._inverse[2]

    def _own_means(self) -> list[Tensor]:
        """Of each stage, [n, d]."""
        shapes = [*zip(self._nested.counts(), self._dimensions(), strict=True)]
        parts = self.means.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _rows(self) -> list[list[Tensor]]:
        """The blocks of the factors of each stage, as they are stored."""
        own, rest, rows = self._dimensions(), self.factors, []
        for stage, cells in enumerate(self._nested.counts()):
            blocks = []
            for d in own[: stage + 1]:
                block, rest = rest.tensor_split([cells * own[stage] * d])
                blocks.append(block.view(cells, own[stage], d))
            rows.append(blocks)
        return rows

    def _covariances(self, scale: float) -> list[list[Tensor]]:
        """The blocks of the covariances of each stage, without epsilon, times `scale`."""
        covariances = covariances_of(self._nested, self._rows(), self.accumulator)
        self._regularise(covariances, -1)
        return [[block.mul_(scale) for block in blocks] for blocks in covariances]

    def _regularise(self, covariances: list[list[Tensor]], sign: int = 1) -> None:
        """Adds epsilon to the variances."""
        for *_, own in covariances:
            own.diagonal(dim1=1, dim2=2).add_(sign * self.epsilon)

    def _check_grids(self, grids: tuple[tuple[int, int], ...]) -> None:
        if (known := self.grids.tolist()) != [[*grid] for grid in grids]:
            raise UsageError(
                f"the Gaussians are of a grid of {known[0][0]}x{known[0][1]}, and images of this size have "
                f"{grids[0][0]}x{grids[0][1]}: set data.image_size and data.center_crop as they were in the fit"
            )
