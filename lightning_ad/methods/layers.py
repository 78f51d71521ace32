"""Layers that more than one method is built of."""

import math
from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm with at most 32 groups, which does not mix the images of a batch."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(32, channels), channels)
