"""Layers that more than one method is built of."""

import math
from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm (16 channels a group or more), which does not mix the images of a batch."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(max(1, channels // 16), channels), channels)
