"""Layers that more than one method is built of."""

from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm, which does not mix the images of a batch.

    Groups are of 16 channels, or of the next larger number that divides them evenly; narrow layers are one group.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(n for n in range(max(1, channels // 16), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)
