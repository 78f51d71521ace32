"""DRAEM (Zavrtanik et al., ICCV 2021, arXiv 2108.07610): learns to see synthetic anomalies, and finds real ones."""

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
    """Defaults are those of the released code; `configs/draem-paper.yaml` has those of the paper.

    Images are not normalised.

    Args:
        reconstructive_width: of the first stage of the original reconstructive sub-network.
        discriminative_width: of the first stage of the original discriminative sub-network.
        reconstructor: `original`, or an architecture of segmentation-models-pytorch (`unet`, ...).
        reconstructor_encoder: its encoder.
        discriminator: `original`, an architecture of segmentation-models-pytorch, or null: the reconstructive
            sub-network alone, and its squared error as the map.
        discriminator_encoder: its encoder.
        encoder_weights: of encoders of segmentation-models-pytorch: a name (`imagenet`), a path, or null.
        norm: batch, or group, which does not mix the images of a batch; of the original sub-networks.
        released_initialisation: of the original sub-networks: N(0, 0.02); false for PyTorch's.
        joint_gradient: the focal loss trains the reconstructive sub-network too.
        learning_rate: of Adam.
        lr_milestones: shares of the epochs after which the learning rate drops.
        lr_factor: by which it drops.
        optimizer: another one instead of Adam, with its own learning rate.
        lr_scheduler: another one instead of the drops, stepped after each epoch.
        anomaly_probability: how often a training image gets a synthetic anomaly.
        rotate_probability: how often a training image is rotated first.
        rotate_degrees: by at most this.
        opacity: (low, high) of a synthetic anomaly's texture.
        augmenters: how many of the ten texture augmenters are applied.
        noise: where Perlin noise is made: by perlin-numpy in the loader's workers, or for a batch on the device.
        channels_last: lay tensors out channel by channel: faster on a CPU, and the same but for rounding.
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
        for name, share in {"anomaly": anomaly_probability, "rotate": rotate_probability}.items():
            if not 0 <= share <= 1:
                raise UsageError(f"model.{name}_probability must lie within 0 and 1; {share} came")
        if not 0 <= opacity[0] <= opacity[1] <= 1:
            raise UsageError(f"model.opacity is (low, high) within 0 and 1; {list(opacity)} came")
        if any(not 0 < share <= 1 for share in lr_milestones):
            raise UsageError(
                f"model.lr_milestones are shares of the epochs, above 0, at most 1; {list(lr_milestones)}"
            )
        if not 0 <= augmenters <= len(AUGMENTERS):
            raise UsageError(
                f"model.augmenters must lie within 0 and {len(AUGMENTERS)}; {augmenters} came"
            )
        if score_window < 1 or score_window % 2 == 0:
            raise UsageError(f"model.score_window must be odd and positive, {score_window} came")
        if (
            encoder_weights is not None
            and reconstructor == ORIGINAL
            and discriminator in (ORIGINAL, None)
        ):
            raise UsageError(
                "model.encoder_weights has no effect on the original networks; name a model.discriminator"
            )
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.reconstructive: nn.Module
        self.discriminative: nn.Module | None = None
        if reconstructor == ORIGINAL:
            self.reconstructive = ReconstructiveNetwork(reconstructive_width, norm)
        else:
            self.reconstructive = segmentation_network(
                "reconstructor", reconstructor, reconstructor_encoder, encoder_weights, 3, 3
            )
        if discriminator == ORIGINAL:
            self.discriminative = DiscriminativeNetwork(discriminative_width, norm)
        elif discriminator is not None:
            self.discriminative = segmentation_network(
                "discriminator", discriminator, discriminator_encoder, encoder_weights, 6, 2
            )
        for network in (self.reconstructive, self.discriminative):
            if (
                isinstance(network, ReconstructiveNetwork | DiscriminativeNetwork)
                and released_initialisation
            ):
                initialise(network)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.joint_gradient, self.score_window = joint_gradient, score_window
        self.learning_rate, self.lr_milestones, self.lr_factor = (
            learning_rate,
            lr_milestones,
            lr_factor,
        )
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
        """What torch.compile is worth while for."""
        return [
            network for network in (self.reconstructive, self.discriminative) if network is not None
        ]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """The map is the probability of an anomaly, in [0, 1], and the score the largest mean of it over a window.

        Without a discriminative sub-network, the map is the squared error summed over the colours, at least 0.
        """
        reconstruction = self.reconstructive(image)
        if self.discriminative is None:
            maps = (reconstruction.float() - image).square().sum(1)
        else:
            maps = (
                self.discriminative(torch.cat((reconstruction, image), 1)).float().softmax(1)[:, 1]
            )
        maps = hide(maps, ignore)
        smooth = F.avg_pool2d(maps, self.score_window, stride=1, padding=self.score_window // 2)
        return Prediction(maps, smooth.flatten(1).amax(1))

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
            losses["loss_focal"] = focal_loss(
                self.discriminative(torch.cat((seen, image), 1)), mask
            )
        return losses

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(groups, lr=self.learning_rate)

    def default_scheduler(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Drops after shares of `trainer.max_epochs`.

        Raises:
            UsageError: where that is not given.
        """
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UsageError(
                f"DRAEM's schedule needs trainer.max_epochs of at least 1, {epochs} came"
            )
        milestones = [max(1, round(share * epochs)) for share in self.lr_milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.lr_factor)
