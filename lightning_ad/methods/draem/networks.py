"""DRAEM's two sub-networks as released (section 3.1 and 3.2 of the paper; widths from the code)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_ad.methods.layers import Norm, norm_layer


def unit(inputs: int, outputs: int, norm: Norm) -> list[nn.Module]:
    """Convolution 3x3 with bias, norm, ReLU."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1),
        norm_layer(norm, outputs),
        nn.ReLU(inplace=True),
    ]


def block(*widths: int, norm: Norm) -> nn.Sequential:
    """Units from each width to the next."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += unit(inputs, outputs, norm)
    return nn.Sequential(*layers)


def double(x: Tensor) -> Tensor:
    """Bilinear upsampling by 2, corners aligned."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ReconstructiveNetwork(nn.Module):
    """An auto-encoder without skip connections that gives back the part without its anomaly.

    [B, 3, H, W] in, the same out, no output activation; H and W multiples of 16. 69,048,579
    parameters at the published width of 128.
    """

    def __init__(self, width: int = 128, norm: Norm = "batch") -> None:
        super().__init__()
        w = width
        stages = (
            (3, w, w),
            (w, 2 * w, 2 * w),
            (2 * w, 4 * w, 4 * w),
            (4 * w, 8 * w, 8 * w),
            (8 * w, 8 * w, 8 * w),
        )
        self.encoder = nn.ModuleList(block(*stage, norm=norm) for stage in stages)
        self.decoder = nn.ModuleList()
        for wide, narrow in pairwise((8 * w, 4 * w, 2 * w, w, w)):
            up = block(wide, wide, norm=norm)
            fuse = block(wide, wide, narrow, norm=norm)
            self.decoder.append(nn.ModuleList((up, fuse)))
        self.head = nn.Conv2d(w, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder[0](image)
        for stage in self.encoder[1:]:
            x = stage(F.max_pool2d(x, 2))
        for up, fuse in self.decoder:
            x = fuse(up(double(x)))
        return self.head(x)


class DiscriminativeNetwork(nn.Module):
    """A U-Net that compares a reconstruction with its image.

    [B, 6, H, W] in (reconstruction, image), logits [B, 2, H, W] out, channel 1 anomalous; H and W
    multiples of 32. 28,374,146 parameters at the published width of 64.
    """

    def __init__(self, width: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        widths = [width * k for k in (1, 2, 4, 8, 8, 8)]
        self.encoder = nn.ModuleList()
        for inputs, outputs in pairwise([6, *widths]):
            self.encoder.append(block(inputs, outputs, outputs, norm=norm))
        self.decoder = nn.ModuleList()
        inputs = widths[-1]
        skips = widths[-2::-1]
        for factor, skip in zip((8, 4, 2, 1, 1), skips, strict=True):
            outputs = width * factor
            up = block(inputs, outputs, norm=norm)
            fuse = block(outputs + skip, outputs, outputs, norm=norm)
            self.decoder.append(nn.ModuleList((up, fuse)))
            inputs = outputs
        self.head = nn.Conv2d(inputs, 2, 3, padding=1)

    def forward(self, stacked: Tensor) -> Tensor:
        """Returns the logits of good and anomalous for each pixel."""
        x = self.encoder[0](stacked)
        skips = []
        for stage in self.encoder[1:]:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2))
        for up, fuse in self.decoder:
            x = up(double(x))
            x = fuse(torch.cat((x, skips.pop()), 1))
        return self.head(x)


def initialise(network: nn.Module) -> None:
    """Draws convolution weights from N(0, 0.02) and norm weights from N(1, 0.02), as released."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
