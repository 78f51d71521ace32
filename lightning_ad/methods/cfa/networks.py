"""CFA's features: residual sums before their ReLU, and the patch descriptor (section III-B)."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.patches import patch_features

SUMS = (operator.add, operator.iadd, torch.add)


class SumBackbone(Backbone):
    """A backbone that returns the sums at the ends of residual blocks, before their ReLUs.

    As released: there the ReLU is moved to the start of the next block. What the network computes
    stays the same.

    Args:
        args: of `Backbone`.
        options: of `Backbone`.

    Raises:
        UsageError: for a layer that does not end in the ReLU of a sum.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.body = _with_tapped_sums(self.body)


def _with_tapped_sums(body: fx.GraphModule) -> fx.GraphModule:
    """Makes a network of the same modules that returns the sums; the given one must not be used."""
    output = body.graph.output_node()
    sums = {}
    for layer, last in output.args[0].items():  # type: ignore[union-attr]
        relu = None
        if last.op == "call_module":
            relu = body.get_submodule(last.target)
        if not isinstance(relu, nn.ReLU) or last.args[0].target not in SUMS:
            raise UsageError(
                f"the layer '{layer}' does not end in the ReLU of a residual block's sum, so that "
                "there is nothing to tap before it: set model.features to post_relu, or choose a "
                "ResNet and its blocks"
            )
        relu.inplace = False  # it would overwrite the sum
        sums[layer] = last.args[0]
    output.args = (sums,)
    return fx.GraphModule(body, body.graph).eval()


class PatchDescriptor(nn.Module):
    """A vector for each position of a grid: 3x3 means and coordinates, then a 1x1 convolution.

    It is linear in the features.

    Args:
        channels: of all layers together.
        width: D, the length of a vector.
        generator: draws the first weights, uniform in +-1 / sqrt(inputs), as PyTorch does.
    """

    def __init__(self, channels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.projection = nn.Linear(channels + 2, width)
        bound = self.projection.in_features**-0.5
        for parameter in self.projection.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns descriptors [B, h * w, D] from maps [B, C_l, h_l, w_l].

        They lie row by row on the grid of the first map.
        """
        features = patch_features(maps, 3, None, None)
        position = coordinates(*maps[0].shape[2:]).to(features)
        position = position.expand(len(features), -1, -1)
        return self.projection(torch.cat((features, position), 2))


def coordinates(height: int, width: int) -> Tensor:
    """Returns row and column of each position, in [-1, 1]: [height * width, 2] (CoordConv)."""
    return torch.cartesian_prod(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))
