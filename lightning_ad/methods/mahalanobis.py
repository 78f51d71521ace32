"""Mahalanobis AD (Rippel et al., ICPR 2020, arXiv 2005.14140): a Gaussian of image features at each level."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map, spatial_mean
from lightning_ad.features.weights import build_network
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.gaussian import (
    Components,
    ShrunkGaussian,
    chi_square_radius,
    pack_triangle,
    unpack_triangle,
)
from lightning_ad.statistics.moments import NormMoments
from lightning_ad.system.distributed import process_rank


class MahalanobisAD(FitOnlyModule):
    """Defaults are those of the released code: EfficientNet-B4 with TensorFlow's weights, levels 0 to 8, no components.

    The paper's figures are means over five fits, each of four fifths of the training images: `data.validation: fold`,
    and `--data.fold all` on the command line. A fit keeps moments alone, D^2 numbers for each level of width D, however
    many images there are.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights (of a timm model: the tag), the path of a state dict, or null for
            random ones.
        layers: node names of the levels; null for the stem, all stages and the head (of a ResNet the max-pool and
            its four stages, of other networks their blocks).
        components: of each level: all; pca, those of highest variance; npca, those of lowest (section III).
        variance: the share of the variance at which pca and npca cut.
        shrinkage: of the covariance: ledoit-wolf, or none, which takes more images than dimensions. With pca and npca
            its intensity is an estimate, see `ShrunkGaussian`.
        combine: the score is the mean of the levels' distances, as released, or their sum, as in the paper.
        map: distances of each position's features, under the levels' Gaussians of image features, as the map. That is
            ours, not the paper's, which has no map: else the map is the score at every pixel.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
    """

    count: Tensor
    means: Tensor
    scatters: Tensor
    thirds: Tensor
    fourths: Tensor

    cumulative = True

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
    ) -> None:
        super().__init__()
        if not 0 < variance < 1:
            raise UsageError(f"model.variance must be above 0 and below 1, {variance} came")
        if sigma < 0:
            raise UsageError(f"model.sigma must be at least 0, {sigma} came")
        self.save_hyperparameters()
        layers = _levels(backbone) if layers is None else layers
        self.backbone = Backbone(backbone, weights, layers).to(memory_format=torch.channels_last)
        self.widths = [shape.channels for shape in self.backbone.shapes(256, 256)]
        self.components, self.variance, self.shrink = (
            components,
            variance,
            shrinkage == "ledoit-wolf",
        )
        self.combine, self.map, self.sigma = combine, map, sigma
        self.has_localization = map
        # The moments of all levels, one after another; of the scatter matrices the lower triangles.
        for name in ("means", "scatters", "thirds", "fourths"):
            self.register_dynamic_buffer(name, torch.empty(0, dtype=torch.float64))
        self.register_buffer(
            "count", torch.tensor(0)
        )  # images of the moments, also before the base says so
        self._moments: list[NormMoments] = []
        self._kept: tuple[Tensor, list[ShrunkGaussian]] | None = None

    def begin(self) -> None:
        """Zero moments; where the fit grows, those of before on the first process."""
        if self.growing and process_rank() == 0:
            self._moments = self._stored()
        else:
            self._moments = [NormMoments(width, self.device) for width in self.widths]
        for name in ("means", "scatters", "thirds", "fourths"):
            setattr(self, name, torch.empty(0, dtype=torch.float64, device=self.device))

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes the spatial means of a batch into the moments; the same means on any number of processes."""
        for moments, level in zip(self._moments, self._maps(image), strict=True):
            moments.update(spatial_mean(level).double())

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """The moments of each level."""
        yield {str(level): moments.state() for level, moments in enumerate(self._moments)}

    def restore(self, piece: dict[str, Any]) -> None:
        """Takes the moments."""
        for level, moments in enumerate(self._moments):
            moments.restore(piece[str(level)])

    def complete(self) -> None:
        """Merges the moments of the processes.

        Raises:
            UserError: where the images are too few for their covariances.
        """
        finished, self._moments = [moments.finish() for moments in self._moments], []
        self.means = torch.cat([m.mean for m in finished])
        self.scatters = torch.cat([pack_triangle(m.scatter[None])[0] for m in finished])
        self.thirds = torch.cat([m.third for m in finished])
        self.fourths = torch.cat([m.fourth for m in finished])
        self.count.fill_(finished[0].count)
        self._kept = (self.means, self._fit(finished))

    def stages(self, plan: Plan) -> list[Stage]:
        """One scatter for each level, and its inverse."""
        squares = float(sum(channels**2 for channels in self.widths))
        return [
            Stage("Reading images", 8.0 * squares),
            Stage("Shrinking", 8.0 * 4 * squares),
            Stage("Testing", 8.0 * 2 * squares),
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        """The backbone."""
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """The score is a Mahalanobis distance, at least 0; the map is the score at every pixel but with `map`."""
        self.require_fitted()
        levels = self._maps(image)
        gaussians, size = self._gaussians(), (image.shape[2], image.shape[3])
        score = self._combined(
            [
                g.squared(spatial_mean(m).double()).sqrt()
                for g, m in zip(gaussians, levels, strict=True)
            ]
        ).float()
        if not self.map:
            return Prediction(score[:, None, None].expand(-1, *size), score)
        with torch.autocast(image.device.type, enabled=False):
            maps = [
                score_map(_local(g, m), *size, self.sigma, ignore)
                for g, m in zip(gaussians, levels, strict=True)
            ]
        return Prediction(self._combined(maps), score)

    def distances(self, image: Tensor) -> dict[str, Tensor]:
        """The Mahalanobis distances [B] of images at each level, float64."""
        self.require_fitted()
        named = zip(self.backbone.layers, self._gaussians(), self._maps(image), strict=True)
        return {
            name: gaussian.squared(spatial_mean(level).double()).sqrt()
            for name, gaussian, level in named
        }

    def thresholds(self, probability: float = 0.9973) -> dict[str, float]:
        """The distance at each level that a good image exceeds with a probability of 1 - `probability` (section III).

        Squared distances are taken to be chi-square distributed with as many degrees of freedom as dimensions. That
        wants far more images than dimensions. Where they are fewer, as at the deeper levels of almost every data set,
        good images that were not in the fit lie much further out, and nearly all of them exceed it: calibrate on
        held-out images (`data.validation`) instead.
        """
        self.require_fitted()
        named = zip(self.backbone.layers, self._gaussians(), strict=True)
        return {
            name: chi_square_radius(gaussian.dimension, probability) for name, gaussian in named
        }

    def chi_square_threshold(self, reject: float) -> float:
        """The score of an image that lies on the limit of every level (`thresholds`); see there what it is worth."""
        radii = self.thresholds(1 - reject)
        return float(self._combined([torch.tensor([radius]) for radius in radii.values()]))

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores [B] of training images as though each had not been in the fit.

        Exact, the shrinkage too, but that with pca and npca the directions of the components stay.

        Raises:
            UserError: for fewer than 4 training images.
        """
        if self.count < 4:
            raise UserError(
                f"to leave an image out takes at least 4 training images; there are {int(self.count)}"
            )
        pairs = zip(self._gaussians(), self._maps(image), strict=True)
        return self._combined(
            [g.squared_without(spatial_mean(level).double()).sqrt() for g, level in pairs]
        ).float()

    def _maps(self, image: Tensor) -> list[Tensor]:
        return [level.float() for level in self.backbone(image)]

    def _combined(self, levels: list[Tensor]) -> Tensor:
        stacked = torch.stack(levels)
        return stacked.mean(0) if self.combine == "mean" else stacked.sum(0)

    def _stored(self) -> list[NormMoments]:
        """The moments of each level, from the buffers."""
        sizes = [width * (width + 1) // 2 for width in self.widths]
        stored = []
        for width, mean, scatter, third, fourth in zip(
            self.widths, self.means.split(self.widths), self.scatters.split(sizes), self.thirds.split(self.widths),
            self.fourths.split(1), strict=True,
        ):  # fmt: skip
            moments = NormMoments(width, self.device)
            lower = unpack_triangle(scatter[None], width)[0]
            moments.count = int(self.count)
            moments.mean.copy_(mean)
            moments.scatter.copy_(lower + lower.tril(-1).mT)
            moments.third.copy_(third)
            moments.fourth.copy_(fourth)
            stored.append(moments)
        return stored

    def _gaussians(self) -> list[ShrunkGaussian]:
        if (
            self._kept is None or self._kept[0] is not self.means
        ):  # loading a module and moving it give it new buffers
            self._kept = (self.means, self._fit(self._stored()))
        return self._kept[1]

    def _fit(self, moments: list[NormMoments]) -> list[ShrunkGaussian]:
        try:
            return [ShrunkGaussian(m, self.components, self.variance, self.shrink) for m in moments]
        except torch.linalg.LinAlgError as error:
            raise UserError(
                f"a level's covariance of {moments[0].count} images has no inverse: take more images (3 different ones "
                "at least), or set model.shrinkage to ledoit-wolf"
            ) from error


def _local(gaussian: ShrunkGaussian, level: Tensor) -> Tensor:
    """Distances [B, h, w] of the features at each position of maps [B, C, h, w]."""
    mean, whitening = gaussian.mean.float()[:, None], gaussian.whitening.float()
    grids = [
        (whitening @ (features.flatten(1) - mean)).square_().sum(0).sqrt() for features in level
    ]
    return torch.stack(grids).unflatten(1, level.shape[2:])


def _levels(backbone: str) -> list[str]:
    """The levels of a network: stem, stages and head; the weights do not matter."""
    with torch.device("meta"):
        children = dict(build_network(backbone, None).named_children())
    if "layer1" in children:
        return [
            name for name in ("maxpool", "layer1", "layer2", "layer3", "layer4") if name in children
        ]
    for blocks in ("features", "blocks", "stages"):
        if isinstance(children.get(blocks), nn.Sequential):
            own = [
                name
                for name, block in children[blocks].named_children()
                if any(True for _ in block.parameters())
            ]
            stem = [name for name in ("stem", "bn1") if name in children][:1]
            return [
                *stem,
                *(f"{blocks}.{name}" for name in own),
                *(name for name in ("bn2",) if name in children),
            ]
    raise UsageError(
        f"{backbone} has none of the usual names for its blocks; it has {', '.join(children)}: name its levels with "
        "model.layers"
    )
