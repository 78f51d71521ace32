"""DRAEM (Zavrtanik et al., ICCV 2021, arXiv 2108.07610): trained to see synthetic anomalies."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_ad.data.augmenters import AUGMENTERS
from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import UsageError
from lightning_ad.features.maps import hide
from lightning_ad.methods.arguments import check_odd, check_within
from lightning_ad.methods.draem.architectures import segmentation_network
from lightning_ad.methods.draem.losses import focal_loss, ssim_loss
from lightning_ad.methods.draem.networks import (
    DiscriminativeNetwork,
    ReconstructiveNetwork,
    initialise,
)
from lightning_ad.methods.layers import Norm
from lightning_ad.methods.learned import LearnedModule

ORIGINAL = "original"


class DRAEM(LearnedModule):
    """Reconstructs the good part, and marks where an image differs from it.

    Defaults are those of the released code; `configs/draem-paper.yaml` has those of the paper.
    Images are not normalised.

    Args:
        reconstructive_width: of the first stage of the original reconstructive sub-network.
        discriminative_width: of the first stage of the original discriminative sub-network.
        reconstructor: `original`, or an architecture of segmentation-models-pytorch (`unet`, ...).
        reconstructor_encoder: the encoder of such an architecture.
        discriminator: `original`, an architecture of segmentation-models-pytorch, or null: the
            reconstructive sub-network alone, and its squared error as the map.
        discriminator_encoder: the encoder of such an architecture.
        encoder_weights: of encoders of segmentation-models-pytorch: a name (`imagenet`), a path,
            or null for random ones.
        norm: batch, or group, which does not mix the images of a batch; of the original
            sub-networks.
        released_initialisation: of the original sub-networks: N(0, 0.02); false for PyTorch's.
        joint_gradient: the focal loss trains the reconstructive sub-network too.
        learning_rate: of Adam.
        lr_milestones: shares of the epochs after which the learning rate drops.
        lr_factor: what the learning rate is multiplied by at each drop.
        optimizer: replaces Adam, with its own learning rate.
        lr_scheduler: replaces the drops, stepped after each epoch.
        anomaly_probability: probability that a training image gets a synthetic anomaly.
        rotate_probability: probability that a training image is rotated first.
        rotate_degrees: the largest angle of a rotation.
        opacity: (low, high) of a synthetic anomaly's texture.
        augmenters: how many of the ten texture augmenters are applied.
        noise: where Perlin noise is made: by perlin-numpy in the loader's workers, or for a batch
            on the device.
        channels_last: lay tensors out channel by channel: faster on a CPU, and the same except for
            rounding.
        score_window: the image score is the maximum of the map's mean over windows of this side.
    """

    image_multiple = 32

    def __init__(
        self,
        reconstructive_width: int = 128,
        discriminative_width: int = 64,
        reconstructor: str = ORIGINAL,
        reconstructor_encoder: str = "resnet34",
        discriminator: str | None = ORIGINAL,
        discriminator_encoder: str = "resnet34",
        encoder_weights: str | None = None,
        norm: Norm = "batch",
        released_initialisation: bool = True,
        joint_gradient: bool = True,
        learning_rate: float = 1e-4,
        lr_milestones: tuple[float, ...] = (0.8, 0.9),
        lr_factor: float = 0.2,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        anomaly_probability: float = 0.5,
        rotate_probability: float = 0.3,
        rotate_degrees: float = 90.0,
        opacity: tuple[float, float] = (0.2, 1.0),
        augmenters: int = 3,
        noise: Literal["loader", "device"] = "loader",
        channels_last: bool = True,
        score_window: int = 21,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        check_within(
            0, 1, anomaly_probability=anomaly_probability, rotate_probability=rotate_probability
        )
        check_within(0, len(AUGMENTERS), augmenters=augmenters)
        check_odd(score_window=score_window)
        _check_ranges(opacity, lr_milestones)
        if encoder_weights is not None and not _takes_encoders(reconstructor, discriminator):
            raise UsageError(
                "model.encoder_weights has no effect on the original networks; name a "
                "model.discriminator"
            )
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.reconstructive = _reconstructive(
            reconstructor, reconstructor_encoder, encoder_weights, reconstructive_width, norm
        )
        self.discriminative = _discriminative(
            discriminator, discriminator_encoder, encoder_weights, discriminative_width, norm
        )
        if released_initialisation:
            _initialise_originals(self.reconstructive, self.discriminative)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.joint_gradient = joint_gradient
        self.score_window = score_window
        self.learning_rate = learning_rate
        self.lr_milestones = lr_milestones
        self.lr_factor = lr_factor
        self.synthesis = Synthesis(
            anomaly_probability,
            rotate_probability,
            rotate_degrees,
            tuple(opacity),
            augmenters,
            noise,
        )
        self.validation_synthesis = self.synthesis.held_out()

    @property
    def compile_targets(self) -> list[nn.Module]:
        if self.discriminative is None:
            return [self.reconstructive]
        return [self.reconstructive, self.discriminative]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Maps are probabilities of an anomaly, in [0, 1]; scores their largest mean over a window.

        Without a discriminative sub-network, the map is the squared error summed over the colours,
        at least 0.
        """
        reconstruction = self.reconstructive(image)
        if self.discriminative is None:
            maps = (reconstruction.float() - image).square().sum(1)
        else:
            logits = self.discriminative(torch.cat((reconstruction, image), 1))
            maps = logits.float().softmax(1)[:, 1]
        maps = hide(maps, ignore)
        smooth = F.avg_pool2d(maps, self.score_window, stride=1, padding=self.score_window // 2)
        return Prediction(maps, smooth.flatten(1).amax(1))

    @property
    def loss_names(self) -> Sequence[str]:
        parts = ["loss_l2", "loss_ssim"]
        if self.discriminative is not None:
            parts.append("loss_focal")
        return parts

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The L2, SSIM and focal losses of section 3.4, of equal weight."""
        synthesis = self.synthesis if self.training else self.validation_synthesis
        target, image, mask = synthesis.apply(batch.image, batch.recipe)
        reconstruction = self.reconstructive(image)
        losses = {
            "loss_l2": F.mse_loss(reconstruction.float(), target),
            "loss_ssim": ssim_loss(reconstruction, target, over_processes=self.training),
        }
        if self.discriminative is not None:
            seen = reconstruction if self.joint_gradient else reconstruction.detach()
            logits = self.discriminative(torch.cat((seen, image), 1))
            losses["loss_focal"] = focal_loss(logits, mask)
        return losses

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.learning_rate)

    def default_scheduler(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Drops the learning rate after shares of `trainer.max_epochs`.

        Raises:
            UsageError: if that is not given.
        """
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UsageError(
                f"DRAEM's schedule needs trainer.max_epochs of at least 1, got {epochs}"
            )
        milestones = [max(1, round(share * epochs)) for share in self.lr_milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.lr_factor)


def _reconstructive(
    name: str, encoder: str, weights: str | None, width: int, norm: Norm
) -> nn.Module:
    if name == ORIGINAL:
        return ReconstructiveNetwork(width, norm)
    return segmentation_network("reconstructor", name, encoder, weights, inputs=3, outputs=3)


def _discriminative(
    name: str | None, encoder: str, weights: str | None, width: int, norm: Norm
) -> nn.Module | None:
    if name is None:
        return None
    if name == ORIGINAL:
        return DiscriminativeNetwork(width, norm)
    return segmentation_network("discriminator", name, encoder, weights, inputs=6, outputs=2)


def _initialise_originals(*networks: nn.Module | None) -> None:
    for network in networks:
        if isinstance(network, ReconstructiveNetwork | DiscriminativeNetwork):
            initialise(network)


def _takes_encoders(reconstructor: str, discriminator: str | None) -> bool:
    """Returns whether one of the sub-networks is of segmentation-models-pytorch."""
    return reconstructor != ORIGINAL or discriminator not in (ORIGINAL, None)


def _check_ranges(opacity: tuple[float, float], lr_milestones: tuple[float, ...]) -> None:
    low, high = opacity
    if not 0 <= low <= high <= 1:
        raise UsageError(f"model.opacity must be (low, high) within 0 and 1, got {list(opacity)}")
    for share in lr_milestones:
        if not 0 < share <= 1:
            raise UsageError(
                "model.lr_milestones must be shares of the epochs, above 0 and at most 1, got "
                f"{list(lr_milestones)}"
            )
