"""DRAEM (Zavrtanik et al., ICCV 2021, arXiv 2108.07610): learns to see synthetic anomalies, and finds real ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.data.sample import Batch
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import UsageError
from lightning_ad.methods.base import AnomalyModule, Prediction
from lightning_ad.methods.draem.losses import focal_loss, ssim_loss
from lightning_ad.methods.draem.networks import DiscriminativeNetwork, ReconstructiveNetwork, initialise


class DRAEM(AnomalyModule):
    """Defaults are those of the released code. Images are not normalised.

    Args:
        reconstructive_width: of the first stage of the reconstructive sub-network.
        discriminative_width: of the first stage of the discriminative sub-network.
        learning_rate: of Adam.
        lr_milestones: shares of the epochs after which the learning rate drops.
        lr_factor: by which it drops.
        anomaly_probability: how often a training image gets a synthetic anomaly.
        rotate_probability: how often a training image is rotated first.
        rotate_degrees: by at most this.
        opacity: (low, high) of a synthetic anomaly's texture.
        channels_last: lay tensors out channel by channel: faster on a CPU, and the same but for rounding.
        score_window: the image score is the maximum of the map's mean over windows of this side.
    """

    image_multiple = 32

    def __init__(
        self,
        reconstructive_width: int = 128,
        discriminative_width: int = 64,
        learning_rate: float = 1e-4,
        lr_milestones: tuple[float, ...] = (0.8, 0.9),
        lr_factor: float = 0.2,
        anomaly_probability: float = 0.5,
        rotate_probability: float = 0.3,
        rotate_degrees: float = 90.0,
        opacity: tuple[float, float] = (0.2, 1.0),
        channels_last: bool = True,
        score_window: int = 21,
    ) -> None:
        super().__init__()
        shares = {"anomaly_probability": anomaly_probability, "rotate_probability": rotate_probability}
        for name, share in {**shares, "opacity": opacity[0], "opacity ": opacity[1]}.items():
            if not 0 <= share <= 1 or opacity[0] > opacity[1]:
                raise UsageError(f"model.{name.strip()} must lie within 0 and 1, low before high; {share} came")
        if score_window < 1 or score_window % 2 == 0:
            raise UsageError(f"model.score_window must be odd and positive, {score_window} came")
        self.save_hyperparameters()
        self.reconstructive = ReconstructiveNetwork(reconstructive_width)
        self.discriminative = DiscriminativeNetwork(discriminative_width)
        initialise(self)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.learning_rate, self.lr_milestones, self.lr_factor = learning_rate, lr_milestones, lr_factor
        self.synthesis = Synthesis(anomaly_probability, rotate_probability, rotate_degrees, opacity)
        self.score_window = score_window

    def forward(self, image: Tensor) -> Prediction:
        """The map is the probability of an anomaly, in [0, 1], unsmoothed; the score likewise."""
        reconstruction = self.reconstructive(image)
        maps = self.discriminative(reconstruction, image).float().softmax(1)[:, 1]
        smooth = F.avg_pool2d(maps, self.score_window, stride=1, padding=self.score_window // 2)
        return Prediction(maps, smooth.flatten(1).amax(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the L2, SSIM and focal losses; the focal loss reaches the reconstructive network too."""
        target, image, mask = self.synthesis.apply(batch.image, batch.recipe)
        reconstruction = self.reconstructive(image)
        logits = self.discriminative(reconstruction, image)
        losses = {
            "loss_l2": F.mse_loss(reconstruction, target),
            "loss_ssim": ssim_loss(reconstruction, target),
            "loss_focal": focal_loss(logits, mask),
        }
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({**losses, "loss": loss}, prog_bar=True, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, with drops after shares of `trainer.max_epochs`."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UsageError(f"DRAEM's schedule needs trainer.max_epochs of at least 1, {epochs} came")
        milestones = [round(share * epochs) for share in self.lr_milestones]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
