"""Defective regions of a mask: what makes a small defect count as much as a large one."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lightning_ad.data.sample import Regions

# Pixels touch along edges and at corners (8-connectivity), and never across images.
_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def region_weights(mask: Tensor) -> Tensor:
    """Gives every defective region a total weight of 1, spread evenly over its pixels.

    Args:
        mask: bool [B, H, W], true where the part is defective; on any device.

    Returns:
        float32 [B, H, W] on the mask's device: 1 / area of the 8-connected region that a pixel
        belongs to, 0 on good pixels. The sum over an image is its number of regions.

    Raises:
        TypeError: the mask is not bool.
        ValueError: the mask is not [B, H, W].
    """
    if mask.dtype != torch.bool:
        raise TypeError(
            f"A mask must be bool, got {mask.dtype}. "
            "Binarise it first, for example with mask > 0.5."
        )
    if mask.ndim != 3:
        raise ValueError(f"A mask must have the shape [B, H, W], got {list(mask.shape)}.")
    weights = np.zeros(mask.shape, np.float32)
    for own, image in zip(weights, mask.cpu().numpy(), strict=True):
        if image.any():
            labels, _ = ndimage.label(image, _NEIGHBOURS)
            areas = np.bincount(labels.ravel()).astype(np.float32)
            areas[0] = np.inf  # label 0 is the good surface
            own[:] = (1 / areas)[labels]
    return torch.from_numpy(weights).to(mask.device)


def saturated_weights(scores: Tensor, regions: Regions) -> Tensor:
    """Returns weights with which the overlap of regions becomes their saturated overlap.

    That is min(pixels found / s, 1). In each region, the s = share * area pixels of the highest
    scores weigh 1 / s (the last of them its fraction of that), and the others nothing: whatever the
    threshold, what is found sums to the saturated overlap (Bergmann et al., Beyond Dents and
    Scratches, IJCV 2022, section 5.2). So sPRO needs no curve of its own.

    Args:
        scores: float [H, W], higher is more anomalous.
        regions: of the image, on any device.

    Returns:
        float32 [H, W] on the scores' device, positive in the regions and 0 elsewhere; the sum is
        their number.

    Raises:
        ValueError: a share is outside (0, 1], or the shapes differ.
    """
    _check_regions(regions, scores)
    flat = scores.flatten().float().cpu()
    inside = regions.masks.any(0).flatten().cpu().float()
    weights = inside * torch.finfo(torch.float32).tiny  # pixels that weigh nothing are positives
    masks = regions.masks.flatten(1).cpu()
    for mask, share in zip(masks, regions.shares.tolist(), strict=True):
        pixels = mask.nonzero().flatten()
        enough = share * len(pixels)
        if len(pixels):
            highest = pixels[flat[pixels].argsort(descending=True)]
            before = torch.arange(len(pixels), dtype=torch.float64)
            counted = (enough - before).clamp(0, 1)
            weights[highest] += (counted / enough).float()
    return weights.reshape(scores.shape).to(scores.device)


def _check_regions(regions: Regions, scores: Tensor) -> None:
    if regions.masks.shape[1:] != scores.shape:
        raise ValueError(
            f"regions {list(regions.masks.shape)} do not fit the map {list(scores.shape)}"
        )
    shares = regions.shares.tolist()
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"the share of a region must lie in (0, 1], got {shares}")
