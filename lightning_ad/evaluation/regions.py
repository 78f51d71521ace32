"""Defective regions of a mask: what makes a small defect count as much as a large one."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

# Pixels touch along edges and at corners (8-connectivity), and never across images.
_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_NEIGHBOURS[1] = True


def region_weights(mask: Tensor) -> Tensor:
    """Gives every defective region a total weight of 1, spread evenly over its pixels.

    Args:
        mask: bool [B, H, W], true where the part is defective; on any device.

    Returns:
        float32 [B, H, W] on the mask's device: 1 / area of the 8-connected region that a pixel belongs to, 0
        on good pixels. The sum over an image is its number of regions.

    Raises:
        TypeError: the mask is not bool.
        ValueError: the mask is not [B, H, W].
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"A mask must be bool, but is {mask.dtype}. Binarise it first, for example with mask > 0.5.")
    if mask.ndim != 3:
        raise ValueError(f"A mask must have the shape [B, H, W], but has {list(mask.shape)}.")
    labels, _ = ndimage.label(mask.cpu().numpy(), _NEIGHBOURS)
    areas = np.bincount(labels.ravel(), minlength=1).astype(np.float32)
    areas[0] = np.inf  # label 0 is the good surface
    return torch.from_numpy((1 / areas)[labels]).to(mask.device)
