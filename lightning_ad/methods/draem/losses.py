"""DRAEM's losses as released (section 3.4 of the paper)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.system.distributed import world_size
from lightning_ad.system.lazy_module import LazyModule

kornia = LazyModule("kornia")  # a second, for DRAEM alone
WINDOW = 11  # Gaussian, sigma 1.5


def ssim_loss(reconstruction: Tensor, target: Tensor, over_processes: bool = False) -> Tensor:
    """Returns 1 - mean structural similarity of [B, 3, H, W], with zeros outside the image.

    The range of values is 1, or 2 if a reconstruction falls below -0.5: in this batch or, with
    `over_processes`, in those of all processes, which must all call this.
    """
    border = [WINDOW // 2] * 4
    lowest = reconstruction.detach().float().min()
    if over_processes and world_size() > 1:
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
    value_range = 2.0 if bool(lowest < -0.5) else 1.0
    padded = F.pad(reconstruction.float(), border), F.pad(target.float(), border)
    with torch.autocast(target.device.type, enabled=False):
        similarity = kornia.metrics.ssim(
            *padded, WINDOW, max_val=value_range, eps=0.0, padding="valid"
        )
        return 1 - similarity.mean()


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0, smooth: float = 1e-5) -> Tensor:
    """Returns the focal loss (Lin et al., ICCV 2017), without class weights, mean over pixels.

    As released, one-hot targets are kept within [smooth, 1 - smooth] and `smooth` is added to the
    probability, which bounds the loss of a pixel by -log(2 * smooth).

    Args:
        logits: [B, 2, H, W].
        mask: bool [B, H, W], the anomalous pixels.
        gamma: the focusing exponent.
        smooth: see above.
    """
    anomalous = logits.float().softmax(1)[:, 1]
    target = mask.float().clamp(smooth, 1 - smooth)
    probability = target * anomalous + (1 - target) * (1 - anomalous) + smooth
    return (-((1 - probability).clamp_min(0) ** gamma) * torch.log(probability)).mean()
