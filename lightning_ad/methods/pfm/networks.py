"""The mapping between the features of two networks at one level (PFM, section III; widths from the code)."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ad.methods.layers import Norm, norm_layer

Direction = Literal["forward", "backward", "bidirectional"]
Position = Literal["none", "add", "concat"]


def block(*widths: int, norm: Norm, last_bare: bool = False) -> nn.Sequential:
    """Convolutions 1x1 with bias, each with norm and ReLU; the last one without where `last_bare`."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 1), norm_layer(norm, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers[:-2] if last_bare else layers))


class Mapping(nn.Module):
    """Estimates one network's features from the other's, place by place.

    Forward, source to target: s -> s/2 + L -> 2L -> L -> 2L -> t/2 + L -> t; backward is its mirror. 2L -> L is bare
    (no norm, no ReLU), and one layer for both directions where the latent layer is shared.

    Args:
        source: channels of the source network.
        target: channels of the target network.
        latent: L.
        direction: which estimates are made.
        share_latent: one latent layer for both directions.
        position: whether a position encoding is added to the input, or concatenated with it (PEFM).
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
        wanted = {"forward": ["to_target"], "backward": ["to_source"], "bidirectional": [*ends]}[
            direction
        ]
        self.encoders, self.latents, self.decoders = (
            nn.ModuleDict(),
            nn.ModuleDict(),
            nn.ModuleDict(),
        )
        for name in wanted:
            start, end = ends[name]
            self.encoders[name] = block(widen * start, start // 2 + latent, 2 * latent, norm=norm)
            shared = next(iter(self.latents.values()), None) if share_latent else None
            self.latents[name] = shared or nn.Conv2d(2 * latent, latent, 1)
            self.decoders[name] = block(
                latent, 2 * latent, end // 2 + latent, end, norm=norm, last_bare=True
            )

    def forward(self, source: Tensor, target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Estimates and what they estimate, `to_target` and `to_source`, from [B, s, h, w] and [B, t, h, w]."""
        ends = {"to_target": (source, target), "to_source": (target, source)}
        pairs = {}
        for name, encoder in self.encoders.items():
            given, wanted = ends[name]
            pairs[name] = (
                self.decoders[name](self.latents[name](encoder(self._encoded(given)))),
                wanted,
            )
        return pairs

    def _encoded(self, x: Tensor) -> Tensor:
        if self.position == "none":
            return x
        encoding = position_encoding(*x.shape[1:], device=x.device).to(x.dtype)
        return x + encoding if self.position == "add" else torch.cat((x, encoding.expand_as(x)), 1)


def position_encoding(
    channels: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Sinusoidal encoding [channels, height, width] (PEFM, section III-B): first half of the channels x, second y.

    Sine on even channels of a half, cosine on odd ones; wavelengths from 2 pi to 10,000 times that. Numbers of
    channels that 4 does not divide are cut from the next one that it does.
    """
    half = 2 * math.ceil(channels / 4)
    rates = torch.exp(torch.arange(0, half, 2, device=device) * (-math.log(10_000) / half))
    encoding = torch.zeros(2, half, height, width, device=device)
    for axis, length in ((0, width), (1, height)):
        angle = torch.arange(length, device=device)[None] * rates[:, None]
        angle = angle[:, None, :] if axis == 0 else angle[:, :, None]
        encoding[axis, 0::2], encoding[axis, 1::2] = angle.sin(), angle.cos()
    return encoding.flatten(0, 1)[:channels]


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's own initialisation of convolutions, from a generator: uniform, +-1 / sqrt(inputs)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.in_channels)
            for parameter in (module.weight, module.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
