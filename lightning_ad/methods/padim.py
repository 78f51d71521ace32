"""PaDiM (Defard et al., ICPR-W 2020, arXiv 2011.08785): a Gaussian of features at each position of the grid."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map
from lightning_ad.methods.base import EARLIER
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.gaussian import leave_one_out
from lightning_ad.statistics.grid_hierarchy import LAYOUT, Nesting, nesting
from lightning_ad.statistics.hierarchical_gaussian import NestedGaussian
from lightning_ad.statistics.moments import BLOCK, Moments
from lightning_ad.system.distributed import process_rank


class PaDiM(FitOnlyModule):
    """Defaults are those of the paper and its common implementation (ResNet18, 100 of 448 channels, epsilon 0.01).

    Positions do not share what they learn: parts must lie the same way in all images. What is kept is the mean and
    the Cholesky factor of each position's covariance; while fitting its scatter, as many numbers of `accumulator`,
    however many images there are; to score the inverse factors too, in float32. Of coarse layers all of it is kept once
    for each cell, not for each position in it, where that is less (`statistics.nested_gaussian`).

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
            raise UsageError(
                f"model.epsilon {epsilon} must be above 0, and model.sigma {sigma} not below it"
            )
        self.epsilon, self.sigma = epsilon, sigma
        self.storage, self.accumulator = getattr(torch, storage), getattr(torch, accumulator)
        drawn = torch.randperm(sum(self.widths), generator=torch.Generator().manual_seed(seed))[
            :dimension
        ]
        self.register_buffer("channels", drawn.sort().values)
        self.register_buffer(
            "count", torch.tensor(0)
        )  # images of the moments, also before the base says so
        self.register_buffer(
            "grids", torch.zeros(len(self.widths), 2, dtype=torch.int64)
        )  # of the layers
        # Of all stages, one after another (`statistics.nested_gaussian`).
        self.register_dynamic_buffer("means", torch.empty(0))
        self.register_dynamic_buffer("factors", torch.empty(0))
        self._moments: Moments | None = None
        self._layers: tuple[Tensor, list[tuple[int, Tensor]]] | None = None
        self._kept: tuple[Tensor, NestedGaussian] | None = None
        self.register_load_state_dict_post_hook(_forget_layers)

    def begin(self) -> None:
        """Zero moments; where the fit grows, those of before on the first process.

        Raises:
            UsageError: where it is to grow by images of another size.
        """
        grids = self._grids_of(*self.trainer.datamodule.input_size)
        if self.growing:
            self._check_grids(grids)
        else:
            self._forget()
        self.grids.copy_(torch.tensor(grids))
        self._moments = Moments(self._nesting(grids), self.accumulator)
        if self.growing:
            if self.storage == torch.float16:
                rank_zero_warn(
                    "The factors of this PaDiM were stored in float16: what grows from them differs from a fit on all "
                    "images by about as much (0.1 %)."
                )
            if process_rank() == 0:
                self._gaussian().resume(self._moments, int(self.count))
        self._forget()

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes a batch into the moments."""
        assert self._moments is not None
        self._moments.update(self._embed(image))

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """The moments."""
        assert self._moments is not None
        yield self._moments.state()

    def restore(self, piece: dict[str, Any]) -> None:
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
        self.means, self.factors = NestedGaussian.fitted(moments, self.epsilon, self.storage)
        self.count.fill_(moments.count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says how the Gaussians lie one after another."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["layout"] = LAYOUT

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises WeightsError for a checkpoint whose Gaussians lie otherwise."""
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get("layout") != LAYOUT:
            raise WeightsError(EARLIER)

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds the scatters, however many images there are, and testing the inverse factors."""
        nested = self._nesting(self._grids_of(plan.height, plan.width))
        vectors, numbers = sum(nested.vectors()), sum(nested.numbers())
        scatters, factors = self.accumulator.itemsize * numbers, self.storage.itemsize * numbers
        return [
            Stage("Reading images", scatters + 4 * 2 * BLOCK * vectors),
            Stage("Factorising", scatters + factors),
            Stage("Testing", factors + 4 * numbers),
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
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
            raise UserError(
                f"to leave an image out takes at least 3 training images; there are {count}"
            )
        squared = self._squared(image, (count - 1) / (count - 2))
        return self._predict(image, leave_one_out(squared, count, 1 / (count - 2)), ignore).score

    def _predict(self, image: Tensor, squared: Tensor, ignore: Tensor | None) -> Prediction:
        with torch.autocast(image.device.type, enabled=False):
            maps = score_map(squared.sqrt(), image.shape[2], image.shape[3], self.sigma, ignore)
        return Prediction(maps, maps.flatten(1).amax(1))

    def _squared(self, image: Tensor, scale: float) -> Tensor:
        """Squared distances [B, h, w], where the covariance is `scale` times what it is, but for epsilon."""
        self._check_grids(self._grids_of(image.shape[2], image.shape[3]))
        flat = self._embed(image)
        with torch.autocast(image.device.type, enabled=False):
            squared = self._gaussian().squared(flat, scale)
        return squared.unflatten(1, self.grids[0].tolist())

    def _embed(self, image: Tensor) -> Tensor:
        """The chosen channels as `Nesting.flat` gives them, float32."""
        chosen, nested = (
            self._chosen(),
            self._nesting(self._grids_of(image.shape[2], image.shape[3])),
        )

        def flat(maps: list[Tensor]) -> list[Tensor]:
            levels = [
                (maps[level].permute(0, 2, 3, 1).flatten(1, 2), channels)
                for level, channels in chosen
            ]
            return [
                nested.flat([level.index_select(2, channels).float() for level, channels in levels])
            ]

        return self.backbone(image, flat)[0]

    def _chosen(self) -> list[tuple[int, Tensor]]:
        """The layers that have chosen channels, the coarsest first, and which those are."""
        if self._layers is None or self._layers[0] is not self.channels:
            chosen, start = [], 0
            for level, width in enumerate(self.widths):
                own = (
                    self.channels[(self.channels >= start) & (self.channels < start + width)]
                    - start
                )
                chosen += [(level, own)] * (len(own) > 0)
                start += width
            self._layers = (self.channels, chosen[::-1])
        return self._layers[1]

    def _nesting(self, grids: tuple[tuple[int, int], ...]) -> Nesting:
        """The cells, where the layers have these grids."""
        chosen = self._chosen()
        dimensions = tuple(len(channels) for _, channels in chosen)
        return nesting(
            tuple(grids[level] for level, _ in chosen), dimensions, grids[0], self.channels.device
        )

    def _grids_of(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grids of the layers, of images of a size."""
        return tuple((shape.height, shape.width) for shape in self.backbone.shapes(height, width))

    def _forget(self) -> None:
        self.means, self.factors, self._kept = (
            self.means.new_empty(0),
            self.factors.new_empty(0),
            None,
        )

    def _gaussian(self) -> NestedGaussian:
        # Loading a module and moving it give it new buffers.
        if self._kept is None or self._kept[0] is not self.factors:
            nested = self._nesting(tuple((height, width) for height, width in self.grids.tolist()))
            made = NestedGaussian(nested, self.means, self.factors, self.epsilon, self.accumulator)
            self._kept = (self.factors, made)
        return self._kept[1]

    def _check_grids(self, grids: tuple[tuple[int, int], ...]) -> None:
        if (known := self.grids.tolist()) != [[*grid] for grid in grids]:
            raise UsageError(
                f"the Gaussians are of a grid of {known[0][0]}x{known[0][1]}, and images of this size have "
                f"{grids[0][0]}x{grids[0][1]}: set data.image_size and data.center_crop as they were in the fit"
            )


def _forget_layers(padim: PaDiM, _keys: object) -> None:
    padim._layers = None  # channels are loaded into the tensor that is there
