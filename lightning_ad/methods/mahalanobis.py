"""Mahalanobis AD (Rippel et al., ICPR 2020, arXiv 2005.14140): a Gaussian of image features."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from scipy.special import gammaincinv
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map, spatial_mean
from lightning_ad.features.weights import build_network
from lightning_ad.methods.arguments import check_at_least
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.components import ComponentGaussian
from lightning_ad.statistics.gaussian import (
    Components,
    ShrunkGaussian,
    pack_triangle,
    unpack_triangle,
)
from lightning_ad.statistics.moments import Moments
from lightning_ad.system.distributed import gather_rows, process_rank

BUFFERS = ("means", "scatters", "thirds", "fourths")  # of the moments
Gaussian = ShrunkGaussian | ComponentGaussian


class _Observed(NamedTuple):
    """Images that this process has observed.

    Attributes:
        index: int64 [N], their rows in the training set.
        vectors: float32 [N, D], the spatial means of all levels beside each other.
    """

    index: Tensor
    vectors: Tensor


class MahalanobisAD(FitOnlyModule):
    """Fits a Gaussian to each level's spatial means of the good images; scores are distances to it.

    Defaults are those of the released code: EfficientNet-B4 with TensorFlow's weights, levels 0 to
    8, all components.

    The paper's figures are means over five fits, each of four fifths of the training images:
    `data.validation: fold`, and `--data.fold all` on the command line. A fit holds moments only,
    D^2 numbers for each level of width D, however many images there are; with components as
    released also D numbers for each image, which the checkpoint keeps too.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights (of a timm model: the tag), the path of a state
            dict, or null for random ones.
        layers: node names of the levels; null for the stem, all stages and the head (of a ResNet
            the max-pool and its four stages, of other networks their blocks).
        components: of each level: all; pca, those of highest variance; npca, those of lowest
            (section III).
        variance: the share of the variance at which pca and npca cut.
        shrinkage: of the covariance: ledoit-wolf, or none, which takes more images than dimensions.
            With none, components without variance are left out.
        combine: the score is the mean of the levels' distances, as released, or their sum, as in
            the paper.
        map: computes the map from the distances of each position's features under the levels'
            Gaussians of image features. That is ours: the paper has no map. Without it, the map is
            the score at every pixel.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        component_fit: released, from the vectors of all images: components without variance are
            kept, and Ledoit and Wolf's intensity is that of all kept components
            (`ComponentGaussian`). moments, from these alone: components without variance are left
            out, and the intensity is an estimate (`ShrunkGaussian`); so do runs from before.
    """

    count: Tensor
    vectors: Tensor
    means: Tensor
    scatters: Tensor
    thirds: Tensor
    fourths: Tensor

    cumulative = True
    can_extend = True

    def __init__(
        self,
        backbone: str = "timm/tf_efficientnet_b4",
        weights: str | None = "aa_in1k",
        layers: list[str] | None = None,
        components: Components = "all",
        variance: float = 0.99,
        shrinkage: Literal["ledoit-wolf", "none"] = "ledoit-wolf",
        combine: Literal["mean", "sum"] = "mean",
        map: bool = False,
        sigma: float = 4.0,
        component_fit: Literal["released", "moments"] = "released",
    ) -> None:
        super().__init__()
        if not 0 < variance < 1:
            raise UsageError(f"model.variance must be above 0 and below 1, got {variance}")
        check_at_least(sigma=(sigma, 0))
        self.save_hyperparameters()
        if layers is None:
            layers = _default_layers(backbone)
        self.backbone = Backbone(backbone, weights, layers).to(memory_format=torch.channels_last)
        self.widths = [shape.channels for shape in self.backbone.shapes(256, 256)]
        self.components = components
        self.variance = variance
        self.shrink = shrinkage == "ledoit-wolf"
        self.combine = combine
        self.sigma = sigma
        self.has_localization = map
        # The moments of all levels, one after another; of the scatter matrices the lower triangles.
        for name in BUFFERS:
            self.register_dynamic_buffer(name, torch.empty(0, dtype=torch.float64))
        # Images in the moments, also before the base sets `images`.
        self.register_buffer("count", torch.tensor(0))
        self._moments: list[Moments] = []
        by_moments = components == "all" or component_fit == "moments" or not self.shrink
        self._fits_vectors = not by_moments
        # Those of all images in their order, all levels beside each other; empty if not needed.
        self.register_buffer("vectors", torch.empty(0), persistent=self._fits_vectors)
        self.register_load_state_dict_pre_hook(_take_vectors)
        self._observed: list[_Observed] = []
        self._keeps_vectors = self._fits_vectors
        # The Gaussians, beside the buffer that they were made of.
        self._fitted: tuple[Tensor, list[Gaussian]] | None = None

    def begin(self) -> None:
        """Starts with empty moments, or an incremental fit with the earlier ones on one process."""
        if self.extending and process_rank() == 0:
            self._moments = self._stored_moments()
        else:
            self._moments = [Moments(width, self.device) for width in self.widths]
        self._keeps_vectors = self._fits_vectors
        if self.extending:
            # A run from before has none.
            self._keeps_vectors = self._fits_vectors and len(self.vectors) == int(self.count)
        else:
            empty = torch.empty(0, device=self.device)
            self.register_buffer("vectors", empty, persistent=self._fits_vectors)
        self._observed = [self._nothing_observed()]
        for name in BUFFERS:
            setattr(self, name, torch.empty(0, dtype=torch.float64, device=self.device))

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes a batch into the moments; the same bits on any number of processes."""
        levels = self._image_features(image)
        for moments, vectors in zip(self._moments, levels, strict=True):
            moments.update(vectors)
        if self._keeps_vectors:
            self._observed.append(_Observed(index, torch.cat(levels, 1).float()))

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """Yields the moments of all levels."""
        piece: dict[str, Any] = {}
        for level, moments in enumerate(self._moments):
            piece[str(level)] = moments.state()
        if self._keeps_vectors:
            piece["observed"] = _joined(self._observed)._asdict()
        yield piece

    def restore(self, piece: dict[str, Any]) -> None:
        """Continues from the moments of `partial_state`."""
        for level, moments in enumerate(self._moments):
            moments.restore(piece[str(level)])
        observed = piece.get("observed")
        if observed is None:  # saved before vectors were kept
            self._keeps_vectors = False
        else:
            index = observed["index"].to(self.device)
            self._observed = [_Observed(index, observed["vectors"].to(self.device))]

    def complete(self) -> None:
        """Merges the moments of the processes and fits the Gaussians.

        Raises:
            UserError: if the images are too few for their covariances.
        """
        moments = [level.finish() for level in self._moments]
        self._moments = []
        self._store(moments)
        self._store_vectors()
        self._fitted = (self.means, self._fit(moments))

    def stages(self, plan: Plan) -> list[Stage]:
        """One scatter for each level, and its inverse."""
        squares = float(sum(channels**2 for channels in self.widths))
        vectors = 0.0
        if self._fits_vectors:
            vectors = 4.0 * plan.images * sum(self.widths)
        return [
            Stage("Reading images", 8.0 * squares + vectors),
            Stage("Shrinking", 8.0 * 4 * squares + 4 * vectors),
            Stage("Testing", 8.0 * 2 * squares + vectors),
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores are Mahalanobis distances, at least 0."""
        self.require_fitted()
        size = (image.shape[2], image.shape[3])
        maps = self._feature_maps(image)
        gaussians = self._gaussians()
        distances = []
        for gaussian, level in zip(gaussians, maps, strict=True):
            distances.append(gaussian.squared(spatial_mean(level).double()).sqrt())
        score = self._combined(distances).float()
        if not self.has_localization:
            return Prediction(score[:, None, None].expand(-1, *size), score)
        local_maps = []
        with torch.autocast(image.device.type, enabled=False):
            for gaussian, level in zip(gaussians, maps, strict=True):
                local = _local_distances(gaussian, level)
                local_maps.append(score_map(local, *size, self.sigma, ignore))
        return Prediction(self._combined(local_maps), score)

    def distances(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the Mahalanobis distances [B] of images at each level, float64."""
        self.require_fitted()
        levels = zip(
            self.backbone.layers, self._gaussians(), self._image_features(image), strict=True
        )
        return {name: gaussian.squared(vectors).sqrt() for name, gaussian, vectors in levels}

    def thresholds(self, probability: float = 0.9973) -> dict[str, float]:
        """Returns the distance at each level that a good image exceeds with 1 - `probability`.

        As in section III, squared distances are assumed to be chi-square distributed with as many
        degrees of freedom as dimensions. That takes far more images than dimensions. If they are
        fewer, as at the deeper levels of almost every data set, good images that were not in the
        fit lie much further out, and nearly all of them exceed it: calibrate on held-out images
        (`data.validation`) instead.
        """
        self.require_fitted()
        levels = zip(self.backbone.layers, self._gaussians(), strict=True)
        return {name: chi_square_radius(level.dimension, probability) for name, level in levels}

    def chi_square_threshold(self, reject: float) -> float:
        """Returns the score at the limit of each level; for its worth see `thresholds`."""
        radii = torch.tensor([*self.thresholds(1 - reject).values()])
        return float(self._combined(list(radii.split(1))))

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores training images as though each had not been fitted.

        Exact, the shrinkage included, but with pca and npca the directions of the components stay.

        Raises:
            UserError: for fewer than 4 training images.
        """
        count = int(self.count)
        if count < 4:
            raise UserError(
                f"to leave an image out takes at least 4 training images; there are {count}"
            )
        distances = []
        for gaussian, vectors in zip(self._gaussians(), self._image_features(image), strict=True):
            distances.append(gaussian.squared_without(vectors).sqrt())
        return self._combined(distances).float()

    def _feature_maps(self, image: Tensor) -> list[Tensor]:
        return [level.float() for level in self.backbone(image)]

    def _image_features(self, image: Tensor) -> list[Tensor]:
        """Returns the spatial means of each level, float64 [B, D]."""
        return [spatial_mean(level).double() for level in self._feature_maps(image)]

    def _combined(self, levels: list[Tensor]) -> Tensor:
        stacked = torch.stack(levels)
        return stacked.mean(0) if self.combine == "mean" else stacked.sum(0)

    def _store(self, moments: list[Moments]) -> None:
        """Puts the moments of the levels into the buffers."""
        parts: dict[str, list[Tensor]] = {name: [] for name in BUFFERS}
        for level in moments:
            parts["means"].append(level.mean)
            parts["scatters"].append(pack_triangle(level.scatter[None])[0])
            parts["thirds"].append(level.third)
            parts["fourths"].append(level.fourth)
        for name in BUFFERS:
            setattr(self, name, torch.cat(parts[name]))
        self.count.fill_(moments[0].count)

    def _store_vectors(self) -> None:
        """Puts the vectors of all processes behind those that are extended, by their numbers."""
        own = _joined(self._observed)
        self._observed = []
        if not self._keeps_vectors:
            self.register_buffer("vectors", self.vectors[:0], persistent=False)
            return
        order = gather_rows(own.index).argsort()
        vectors = gather_rows(own.vectors)[order]
        if len(self.vectors):
            vectors = torch.cat([self.vectors, vectors])
        self.vectors = vectors

    def _nothing_observed(self) -> _Observed:
        index = torch.empty(0, dtype=torch.int64, device=self.device)
        return _Observed(index, torch.empty(0, sum(self.widths), device=self.device))

    def _stored_moments(self) -> list[Moments]:
        """Returns the moments of the levels, from the buffers."""
        triangle_sizes = [width * (width + 1) // 2 for width in self.widths]
        levels = zip(
            self.means.split(self.widths),
            self.scatters.split(triangle_sizes),
            self.thirds.split(self.widths),
            self.fourths.split(1),
            strict=True,
        )
        stored = []
        for mean, triangle, third, fourth in levels:
            lower = unpack_triangle(triangle[None], len(mean))[0]
            scatter = lower + lower.tril(-1).mT
            moments = Moments(len(mean), self.device)
            moments.fill(int(self.count), mean, scatter, third, fourth)
            stored.append(moments)
        return stored

    def _gaussians(self) -> list[Gaussian]:
        # Loading a module and moving it give it new buffers.
        if self._fitted is None or self._fitted[0] is not self.means:
            self._fitted = (self.means, self._fit(self._stored_moments()))
        return self._fitted[1]

    def _fit_levels(self, moments: list[Moments]) -> list[Gaussian]:
        if self.components == "all" or not len(self.vectors):
            options = (self.components, self.variance, self.shrink)
            return [ShrunkGaussian(level, *options) for level in moments]
        gaussians: list[Gaussian] = []
        for vectors in self.vectors.split(self.widths, dim=1):
            gaussians.append(ComponentGaussian(vectors.double(), self.components, self.variance))
        return gaussians

    def _fit(self, moments: list[Moments]) -> list[Gaussian]:
        try:
            return self._fit_levels(moments)
        except torch.linalg.LinAlgError as error:
            more = "" if self.shrink else ", or set model.shrinkage to ledoit-wolf"
            raise UserError(
                f"a level's covariance of {moments[0].count} images has no inverse: take more "
                f"images (3 different ones at least){more}"
            ) from error


def _take_vectors(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Gives `vectors` the shape of what is about to be loaded; checkpoints of before have none."""
    incoming = state.get(prefix + "vectors")
    value = module.get_buffer("vectors").new_empty(0)
    if incoming is not None:
        value = value.new_empty(incoming.shape)
    module.register_buffer("vectors", value, persistent=incoming is not None)


def _joined(observed: Sequence[_Observed]) -> _Observed:
    index = torch.cat([part.index for part in observed])
    return _Observed(index, torch.cat([part.vectors for part in observed]))


def chi_square_radius(dimension: int, probability: float) -> float:
    """Returns the distance within which a Gaussian vector lies with this probability."""
    return float(2 * gammaincinv(dimension / 2, probability)) ** 0.5


def _local_distances(gaussian: Gaussian, level: Tensor) -> Tensor:
    """Returns the distances [B, h, w] of the features at each position of maps [B, C, h, w]."""
    mean = gaussian.mean.float()[:, None]
    whitening = gaussian.whitening.float()
    grids = []
    for features in level:
        white = whitening @ (features.flatten(1) - mean)
        grids.append(white.square_().sum(0).sqrt())
    return torch.stack(grids).unflatten(1, level.shape[2:])


def _default_layers(backbone: str) -> list[str]:
    """Returns the levels of a network: stem, stages and head; the weights do not matter."""
    with torch.device("meta"):
        children = dict(build_network(backbone, None).named_children())
    if "layer1" in children:
        levels = ("maxpool", "layer1", "layer2", "layer3", "layer4")
        return [name for name in levels if name in children]
    for blocks in ("features", "blocks", "stages"):
        if isinstance(children.get(blocks), nn.Sequential):
            return _stem_blocks_and_head(children, blocks)
    raise UsageError(
        f"{backbone} has none of the usual names for its blocks; it has {', '.join(children)}: "
        "name its levels with model.layers"
    )


def _stem_blocks_and_head(children: dict[str, nn.Module], blocks: str) -> list[str]:
    levels = [name for name in ("stem", "bn1") if name in children][:1]
    for name, block in children[blocks].named_children():
        has_parameters = next(block.parameters(), None) is not None
        if has_parameters:
            levels.append(f"{blocks}.{name}")
    if "bn2" in children:
        levels.append("bn2")
    return levels
