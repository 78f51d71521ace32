"""The mapping between two networks' features at one level (section III; widths from the code)."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ad.methods.layers import Norm, norm_layer

Direction = Literal["forward", "backward", "bidirectional"]
Position = Literal["none", "add", "concat"]

WAYS = {
    "forward": ("to_target",),
    "backward": ("to_source",),
    "bidirectional": ("to_target", "to_source"),
}


def block(*widths: int, norm: Norm, last_bare: bool = False) -> nn.Sequential:
    """1x1 convolutions with bias, each with norm and ReLU; the last one without, if `last_bare`."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 1), norm_layer(norm, outputs), nn.ReLU(inplace=True)]
    if last_bare:
        layers = layers[:-2]
    return nn.Sequential(*layers)


class Mapping(nn.Module):
    """Estimates one network's features from the other's, position by position.

    Forward, source to target: s -> s/2 + L -> 2L -> L -> 2L -> t/2 + L -> t; backward is the mirror
    image. 2L -> L is bare (no norm, no ReLU), and one layer for both directions if the latent layer
    is shared.

    Args:
        source: channels of the source network.
        target: channels of the target network.
        latent: L.
        direction: which network's features are estimated.
        share_latent: one latent layer for both directions.
        position: whether a position encoding is added to the input, or concatenated to it (PEFM).
        norm: batch or group.
    """

    def __init__(
        self,
        source: int,
        target: int,
        latent: int,
        direction: Direction = "bidirectional",
        share_latent: bool = True,
        position: Position = "none",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.position = position
        widen = 2 if position == "concat" else 1
        ends = {"to_target": (source, target), "to_source": (target, source)}
        self.encoders = nn.ModuleDict()
        self.latents = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        shared: nn.Module | None = None
        for way in WAYS[direction]:
            start, end = ends[way]
            self.encoders[way] = block(widen * start, start // 2 + latent, 2 * latent, norm=norm)
            if shared is None or not share_latent:
                shared = nn.Conv2d(2 * latent, latent, 1)
            self.latents[way] = shared
            self.decoders[way] = block(
                latent, 2 * latent, end // 2 + latent, end, norm=norm, last_bare=True
            )

    def forward(self, source: Tensor, target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns estimates and what they estimate, `to_target` and `to_source`.

        Args:
            source: features [B, s, h, w].
            target: features [B, t, h, w].
        """
        ends = {"to_target": (source, target), "to_source": (target, source)}
        pairs = {}
        for way, encoder in self.encoders.items():
            given, wanted = ends[way]
            latent = self.latents[way](encoder(self._with_position(given)))
            pairs[way] = (self.decoders[way](latent), wanted)
        return pairs

    def _with_position(self, x: Tensor) -> Tensor:
        if self.position == "none":
            return x
        encoding = position_encoding(*x.shape[1:], device=x.device).to(x.dtype)
        if self.position == "add":
            return x + encoding
        return torch.cat((x, encoding.expand_as(x)), 1)


def position_encoding(
    channels: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Returns a sinusoidal encoding [channels, height, width] (PEFM, section III-B).

    The first half of the channels encodes x, the second y: sine on even channels of a half, cosine
    on odd ones; wavelengths from 2 pi to 10,000 times that. If `channels` is no multiple of 4, the
    last ones of the next multiple are left out.
    """
    half = 2 * math.ceil(channels / 4)
    rates = torch.exp(torch.arange(0, half, 2, device=device) * (-math.log(10_000) / half))
    encoding = torch.zeros(2, half, height, width, device=device)
    for axis, length in ((0, width), (1, height)):
        angle = torch.arange(length, device=device)[None] * rates[:, None]
        angle = angle.unsqueeze(1 + axis)  # the same along the other axis
        encoding[axis, 0::2] = angle.sin()
        encoding[axis, 1::2] = angle.cos()
    return encoding.flatten(0, 1)[:channels]


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draws a network's convolutions as PyTorch does, uniform in +-1 / sqrt(inputs)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.in_channels)
            for parameter in (module.weight, module.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
