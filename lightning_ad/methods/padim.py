"""PaDiM (Defard et al., ICPR-W 2020, arXiv 2011.08785): a Gaussian at each position of the grid."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map
from lightning_ad.methods.arguments import check_at_least
from lightning_ad.methods.base import EARLIER
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.gaussian import leave_one_out
from lightning_ad.statistics.grid_hierarchy import LAYOUT, GridHierarchy, cached_hierarchy
from lightning_ad.statistics.hierarchical_gaussian import HierarchicalGaussian, fit_gaussian
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments
from lightning_ad.statistics.moments import BLOCK
from lightning_ad.system.distributed import process_rank

Grids = tuple[tuple[int, int], ...]  # height and width of each layer's map


class ChosenChannels(NamedTuple):
    """The channels that are taken from one layer.

    Attributes:
        layer: its number, counted from the finest.
        channels: int64, of the layer's own.
    """

    layer: int
    channels: Tensor


class PaDiM(FitOnlyModule):
    """Fits a Gaussian to the features at each position; scores are Mahalanobis distances to it.

    Defaults are those of the paper and its common implementation (ResNet18, 100 of 448 channels,
    epsilon 0.01).

    Positions do not share what they learn: parts must lie the same way in all images. The
    checkpoint holds the mean and the Cholesky factor of each position's covariance; a fit holds its
    scatter, as many numbers of `accumulator`, however many images there are; scoring also holds the
    inverse factors in float32. What belongs to a coarse layer is kept once for each of its cells
    rather than for each position, if that is less (`statistics.grid_hierarchy`).

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random
            ones.
        layers: node names, the finest first; null for the last blocks at strides 4, 8 and 16
            (layer1 to layer3 of a ResNet). The finest one's grid is that of the Gaussians, deeper
            ones are replicated onto it.
        dimension: channels that are drawn at random from those of all layers; null for all. A list
            names the channels themselves, counted over all layers from the finest on: those that
            another implementation has drawn.
        epsilon: added to each variance (section III-B), above 0.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        storage: of the factors in the checkpoint: float32; float16 halves it, and rounds distances
            to about 0.1 %.
        accumulator: of the moments while fitting: float64; float32 halves the memory.
        seed: of the channels; the command line sets it from seed_everything.
    """

    channels: Tensor
    count: Tensor
    grids: Tensor
    means: Tensor
    factors: Tensor

    cumulative = True
    can_extend = True

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = "IMAGENET1K_V1",
        layers: list[str] | None = None,
        dimension: int | list[int] | None = 100,
        epsilon: float = 0.01,
        sigma: float = 4.0,
        storage: Literal["float32", "float16"] = "float32",
        accumulator: Literal["float64", "float32"] = "float64",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if epsilon <= 0:
            raise UsageError(f"model.epsilon must be above 0, got {epsilon}")
        check_at_least(sigma=(sigma, 0))
        self.save_hyperparameters()
        self.backbone = Backbone(backbone, weights, layers, strides=(4, 8, 16))
        self.widths = [shape.channels for shape in self.backbone.shapes(256, 256)]
        channels = self._choose_channels(dimension, seed)
        self.epsilon = epsilon
        self.sigma = sigma
        self.storage = getattr(torch, storage)
        self.accumulator = getattr(torch, accumulator)
        self.register_buffer("channels", channels)
        # Images in the moments, also before the base sets `images`.
        self.register_buffer("count", torch.tensor(0))
        # Height and width of each layer's map in the fit.
        self.register_buffer("grids", torch.zeros(len(self.widths), 2, dtype=torch.int64))
        # Level after level, see `HierarchicalGaussian`.
        self.register_dynamic_buffer("means", torch.empty(0))
        self.register_dynamic_buffer("factors", torch.empty(0))
        self._moments: HierarchicalMoments | None = None
        # What was made of `channels` and `factors`, each beside the tensor that it was made of.
        self._chosen: tuple[Tensor, list[ChosenChannels]] | None = None
        self._fitted: tuple[Tensor, HierarchicalGaussian] | None = None
        self.register_load_state_dict_post_hook(PaDiM._forget_chosen)

    def begin(self) -> None:
        """Starts with empty moments, or an incremental fit with the earlier ones on one process.

        Raises:
            UsageError: if an incremental fit is given images of another size.
        """
        grids = self._grids_of(*self.training_set.input_size)
        if self.extending:
            self._check_grids(grids)
        else:
            self._forget()
        self.grids.copy_(torch.tensor(grids))
        self._moments = HierarchicalMoments(self._hierarchy(grids), self.accumulator)
        if self.extending:
            self._continue_from_factors(self._moments)
        self._forget()

    def observe(self, image: Tensor, index: Tensor) -> None:
        assert self._moments is not None
        self._moments.update(self._embed(image))

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        assert self._moments is not None
        yield self._moments.state()

    def restore(self, piece: dict[str, Any]) -> None:
        """Continues from the moments of `partial_state`."""
        assert self._moments is not None
        self._moments.restore(piece)

    def complete(self) -> None:
        """Merges the moments of the processes and factorises the covariances.

        Raises:
            UserError: if there is a single training image.
        """
        assert self._moments is not None
        moments = self._moments.finish()
        self._moments = None
        if moments.count < 2:
            raise UserError("a covariance needs at least 2 training images, got 1")
        self.means, self.factors = fit_gaussian(moments, self.epsilon, self.storage)
        self.count.fill_(moments.count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the version of the Gaussians' layout."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["layout"] = LAYOUT

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the version of the Gaussians' layout.

        Raises:
            WeightsError: if it is another one.
        """
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get("layout") != LAYOUT:
            raise WeightsError(EARLIER)

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds the scatters, however many images there are, testing the inverses."""
        hierarchy = self._hierarchy(self._grids_of(plan.height, plan.width))
        vectors = sum(hierarchy.vector_sizes())
        numbers = sum(hierarchy.matrix_sizes())
        scatters = self.accumulator.itemsize * numbers
        factors = self.storage.itemsize * numbers
        return [
            Stage("Reading images", scatters + 4 * 2 * BLOCK * vectors),
            Stage("Factorising", scatters + factors),
            Stage("Testing", factors + 4 * numbers),
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Maps are Mahalanobis distances, at least 0; the score is the smoothed map's maximum."""
        self.require_fitted()
        return self._predict(image, self._squared(image, 1.0), ignore)

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores training images as though each had not been fitted; exact except for rounding.

        Raises:
            UserError: for fewer than 3 training images.
        """
        count = int(self.count)
        if count < 3:
            raise UserError(
                f"to leave an image out takes at least 3 training images; there are {count}"
            )
        squared = self._squared(image, (count - 1) / (count - 2))
        without = leave_one_out(squared, count, 1 / (count - 2))
        return self._predict(image, without, ignore).score

    def _predict(self, image: Tensor, squared: Tensor, ignore: Tensor | None) -> Prediction:
        with torch.autocast(image.device.type, enabled=False):
            maps = score_map(squared.sqrt(), image.shape[2], image.shape[3], self.sigma, ignore)
        return Prediction(maps, maps.flatten(1).amax(1))

    def _squared(self, image: Tensor, scale: float) -> Tensor:
        """Returns squared distances [B, h, w]; `scale` multiplies the covariances, not epsilon."""
        self._check_grids(self._grids_of(image.shape[2], image.shape[3]))
        flat = self._embed(image)
        with torch.autocast(image.device.type, enabled=False):
            squared = self._gaussian().squared(flat, scale)
        return squared.unflatten(1, self.grids[0].tolist())

    def _embed(self, image: Tensor) -> Tensor:
        """Returns the chosen channels in float32, as `GridHierarchy.flatten` gives them."""
        hierarchy = self._hierarchy(self._grids_of(image.shape[2], image.shape[3]))
        layers = self._chosen_channels()

        def flatten(maps: list[Tensor]) -> list[Tensor]:
            levels = []
            for layer, channels in layers:
                vectors = maps[layer].permute(0, 2, 3, 1).flatten(1, 2)
                levels.append(vectors.index_select(2, channels).float())
            return [hierarchy.flatten(levels)]

        return self.backbone(image, flatten)[0]

    def _chosen_channels(self) -> list[ChosenChannels]:
        """Returns the chosen channels of each layer that has any, the coarsest layer first."""
        if self._chosen is None or self._chosen[0] is not self.channels:
            self._chosen = (self.channels, self._split_by_layer(self.channels))
        return self._chosen[1]

    def _forget_chosen(self, _keys: object) -> None:
        """Splits the channels anew: others are loaded into the tensor that is there."""
        self._chosen = None

    def _split_by_layer(self, channels: Tensor) -> list[ChosenChannels]:
        chosen = []
        start = 0
        for layer, width in enumerate(self.widths):
            own = channels[(channels >= start) & (channels < start + width)] - start
            if len(own):
                chosen.append(ChosenChannels(layer, own))
            start += width
        return chosen[::-1]

    def _hierarchy(self, grids: Grids) -> GridHierarchy:
        """Returns the cells of the layers that have chosen channels."""
        chosen = self._chosen_channels()
        chosen_grids = tuple(grids[layer] for layer, _ in chosen)
        dimensions = tuple(len(channels) for _, channels in chosen)
        return cached_hierarchy(chosen_grids, dimensions, grids[0], self.channels.device)

    def _grids_of(self, height: int, width: int) -> Grids:
        """Returns the grids of the layers' maps of images of a size."""
        return tuple((shape.height, shape.width) for shape in self.backbone.shapes(height, width))

    def _forget(self) -> None:
        self.means = self.means.new_empty(0)
        self.factors = self.factors.new_empty(0)
        self._fitted = None

    def _continue_from_factors(self, moments: HierarchicalMoments) -> None:
        """Fills the first process's moments with those of the earlier fit."""
        if self.storage == torch.float16:
            rank_zero_warn(
                "The factors of this PaDiM were stored in float16: an incremental fit from them "
                "differs from a fit on all images by about as much (0.1 %)."
            )
        if process_rank() == 0:
            self._gaussian().fill(moments, int(self.count))

    def _gaussian(self) -> HierarchicalGaussian:
        # Loading a module and moving it give it new buffers.
        if self._fitted is None or self._fitted[0] is not self.factors:
            grids = tuple((height, width) for height, width in self.grids.tolist())
            gaussian = HierarchicalGaussian(
                self._hierarchy(grids), self.means, self.factors, self.epsilon, self.accumulator
            )
            self._fitted = (self.factors, gaussian)
        return self._fitted[1]

    def _choose_channels(self, dimension: int | list[int] | None, seed: int) -> Tensor:
        """Returns the numbers of the channels, ascending."""
        if isinstance(dimension, list):
            self._check_listed(dimension)
            return torch.tensor(sorted(dimension))
        self._check_count(dimension)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(sum(self.widths), generator=generator)[:dimension]
        return drawn.sort().values

    def _check_listed(self, channels: list[int]) -> None:
        last = sum(self.widths) - 1
        wrong = [channel for channel in channels if not 0 <= channel <= last]
        if wrong:
            raise UsageError(
                f"model.dimension lists channel {wrong[0]}; the layers "
                f"{', '.join(self.backbone.layers)} have channels 0 to {last}"
            )
        if not channels:
            raise UsageError("model.dimension is an empty list; name at least one channel")
        if len({*channels}) < len(channels):
            raise UsageError("model.dimension lists a channel twice; name each once")

    def _check_count(self, dimension: int | None) -> None:
        channels = sum(self.widths)
        if dimension is not None and not 1 <= dimension <= channels:
            raise UsageError(
                f"model.dimension must be from 1 to {channels}, the channels of the layers "
                f"{', '.join(self.backbone.layers)}, null for all, or a list of channels; got "
                f"{dimension}"
            )

    def _check_grids(self, grids: Grids) -> None:
        """Raises UsageError if the Gaussians are of other grids."""
        fitted = self.grids.tolist()
        if fitted != [[*grid] for grid in grids]:
            raise UsageError(
                f"the Gaussians are of a grid of {fitted[0][0]}x{fitted[0][1]}, and images of this "
                f"size have {grids[0][0]}x{grids[0][1]}: set data.image_size and data.center_crop "
                "as they were in the fit"
            )
