"""Layers that more than one method is built of."""

from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Returns batch norm, or group norm, which does not mix the images of a batch.

    Groups have 16 channels, or the next larger number that divides them evenly; narrow layers are
    one group.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = max(1, channels // 16)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)
