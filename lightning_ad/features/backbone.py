"""A frozen network that gives feature maps, and tells their shapes before it has seen an image."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from timm.models import create_feature_extractor, get_graph_node_names
from torch import Tensor, nn

from lightning_ad.errors import UsageError
from lightning_ad.features.disk_cache import DiskFeatures
from lightning_ad.features.fusion import ACTIVATIONS, FusedNetwork, fusable
from lightning_ad.features.weights import build_network
from lightning_ad.system.threads import map_single_threaded, one_thread

BLOCK = {"cpu": 1, "cuda": 16}  # images that go through the network together
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB in [0, 1]


class FeatureShape(NamedTuple):
    """Of one layer: channels, and the height and width of its grid."""

    channels: int
    height: int
    width: int


class Backbone(nn.Module):
    """Feature maps of a pre-trained network; frozen, always in eval mode, and run no deeper than needed.

    Args:
        name: of a torchvision model, or `timm/<name>`.
        weights: name of weights, path of a state dict, or None for random weights (see `build_network`).
        layers: node names (`layer2`, `features.6`); None for the last block at each of `strides`.
        strides: which blocks to take where `layers` is None; None for the last of all that has a map.
        blocks: by type of device, how many images go through together; the whole batch where it has no entry.
        argument: what the user's names of `layers` and `weights` begin with, for messages.

    Raises:
        UsageError: for an unknown model or layer; the message lists those there are.
        WeightsError: where the weights cannot be had or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: str | None = "IMAGENET1K_V1",
        layers: Sequence[str] | None = None,
        strides: Sequence[int | None] = (8, 16),
        blocks: Mapping[str, int] = BLOCK,
        argument: str = "model.",
    ) -> None:
        super().__init__()
        network = build_network(name, weights, argument).eval()
        self.blocks = blocks
        self.layers = (
            list(layers) if layers is not None else _blocks_at(network, name, strides, argument)
        )
        nodes = get_graph_node_names(network)[1]
        if unknown := [
            k
            for k in self.layers
            if k not in nodes and not any(n.startswith(f"{k}.") for n in nodes)
        ]:
            raise UsageError(
                f"{name} has no layer {', '.join(map(repr, unknown))}; "
                f"its blocks are {', '.join(_block_names(network))} ({argument}layers)"
            )
        self.body = create_feature_extractor(network, {k: k for k in self.layers}).eval()
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self._fused = _Fused()
        self._shapes: dict[tuple[int, int], list[FeatureShape]] = {}
        self._keep: tuple[Path, float] | None = None
        self._kept: DiskFeatures | None = None
        self._named = f"{name} {type(network).__name__}"
        self.register_load_state_dict_post_hook(_forget_fused)

    def keep(self, folder: Path, gib: float) -> None:
        """Keeps the maps of images on disk (`DiskFeatures`), and takes those that are there; on a CPU alone."""
        self._keep, self._kept = (folder, gib), None

    def _disk(self, fused: bool) -> DiskFeatures | None:
        """Opened for the weights that are there at the first image; None where nothing is kept."""
        if self._keep is None or torch.is_autocast_enabled("cpu"):  # which rounds otherwise
            return None
        if self._kept is None:
            self._kept = DiskFeatures(*self._keep, self.body, f"{self._named} {fused}", self.layers)
        return self._kept

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: a frozen network must not update its batch statistics."""
        return super().train(False)

    def forward(
        self, image: Tensor, then: Callable[[list[Tensor]], list[Tensor]] = list
    ) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l] of each layer, for images [B, 3, H, W] in [0, 1], which it normalises itself.

        Or what `then` makes of the maps of some of the images, one of which does not depend on the others.

        Libraries choose their convolutions by the size of the batch, and those round differently, by the number of
        threads too. So that the features of an image are the same bits in every batch, images go through in blocks of
        one fixed size, on a CPU on one thread each (but for a compiled network).
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return then(self._maps(image, self.body))
        if not len(image):
            return then(self._maps(image, self._body()))
        block = self.blocks.get(image.device.type, len(image))
        if image.device.type == "cpu" and block == 1 and self.body._compiled_call_impl is None:
            return self._side_by_side(image, then)
        missing = -len(image) % block
        filled = (
            torch.cat([image, image.new_zeros(missing, *image.shape[1:])]) if missing else image
        )
        parts = [then(self._maps(part, self._body())) for part in filled.split(block)]
        return [torch.cat(maps)[: len(image)] for maps in zip(*parts, strict=True)]

    def _side_by_side(
        self, image: Tensor, then: Callable[[list[Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        """One image on each thread, or some together where they are many."""
        network = self._network(image)
        kept = self._disk(isinstance(network, FusedNetwork))
        some = network.together if isinstance(network, FusedNetwork) and kept is None else 1
        turn = some * torch.get_num_threads()
        many, single = image.tensor_split([len(image) // turn * turn])

        def work(part: Tensor) -> list[list[Tensor]]:
            maps = (
                self._maps(part, network)
                if kept is None
                else kept.get(part, lambda: self._maps(part, network))
            )
            return [then([level[row : row + 1] for level in maps]) for row in range(len(part))]

        done = map_single_threaded(
            work,
            [*(many.split(some) if len(many) else ()), *(single.split(1) if len(single) else ())],
        )
        return [
            torch.cat(maps) for maps in zip(*(one for some in done for one in some), strict=True)
        ]

    def _body(self) -> nn.Module:
        """The body in eval mode: a deep copy of a traced network forgets that it was in it."""
        return self.body.eval() if self.body.training else self.body

    def _network(self, image: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
        """The body, or what computes the same faster."""
        if (dtype := fusable(image)) is None:
            return self._body()
        made, wanted = self._fused.made, (image.shape[2:], dtype)
        if made is None or made[1] is not self.body or made[2] != wanted:
            with one_thread():  # convolutions order their weights for the number of threads, too
                one = image[:1].detach().contiguous(memory_format=torch.channels_last)
                self._fused.made = made = (FusedNetwork(self.body, one, dtype), self.body, wanted)
        return made[0]

    def _maps(self, image: Tensor, network: Callable[[Tensor], dict[str, Tensor]]) -> list[Tensor]:
        if network is self.body:
            normalised = (image - self.mean) / self.std
        else:
            normalised = (
                torch.sub(image, self.mean)
                .div_(self.std)
                .contiguous(memory_format=torch.channels_last)
            )
        maps = network(normalised)
        return [maps[k] for k in self.layers]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._fused.made = self._kept = None
        return super()._apply(fn, recurse)

    def shapes(self, height: int, width: int) -> list[FeatureShape]:
        """The shape of each layer's map for images of [height, width]; nothing is computed, and only once for a size.

        Raises:
            UsageError: where nothing would be left of images as small.
        """
        if (known := self._shapes.get((height, width))) is not None:
            return known
        weights = {
            id(tensor): tensor.to("meta")
            for tensor in (*self.body.parameters(), *self.body.buffers())
        }
        body = copy.deepcopy(self.body, weights)
        for parent in [
            *body.modules()
        ]:  # what leaves shapes as they are takes longest on the meta device
            for name, child in parent.named_children():
                if isinstance(child, (nn.BatchNorm2d, *ACTIVATIONS)):
                    setattr(parent, name, nn.Identity())
        body.eval()
        try:
            with torch.no_grad():
                maps = body(torch.empty(1, 3, height, width, device="meta"))
        except RuntimeError as error:
            raise UsageError(
                f"images of {height}x{width} px are too small for the backbone: raise data.image_size ({error})"
            ) from error
        self._shapes[height, width] = [FeatureShape(*maps[k].shape[1:]) for k in self.layers]
        return self._shapes[height, width]


class _Fused:
    """Holds a network that belongs to no checkpoint, and to no copy of its holder; of which body, for what images.

    It knows of weights that are loaded or moved; not of weights that are changed in place, as nobody does here.
    """

    made: tuple[FusedNetwork, nn.Module, tuple[torch.Size, torch.dtype]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def _forget_fused(backbone: Backbone, _keys: object) -> None:
    backbone._fused.made = backbone._kept = None


def _block_names(network: nn.Module) -> list[str]:
    """The network's blocks in order: children of `features` (`blocks`, `stages`), or of the network itself."""
    for stem in ("features", "blocks", "stages"):
        if isinstance(children := getattr(network, stem, None), nn.Sequential):
            return [f"{stem}.{name}" for name, _ in children.named_children()]
    return [name for name, _ in network.named_children()]


def _blocks_at(
    network: nn.Module, name: str, strides: Sequence[int | None], argument: str
) -> list[str]:
    """The last block at each stride, and of all, from one pass on the meta device."""
    ghost, side = copy.deepcopy(network).to("meta"), 256
    at: dict[int | None, str] = {}

    def note(block: str) -> None:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                at[2 ** round(math.log2(side / output.shape[-1]))] = at[None] = block

        ghost.get_submodule(block).register_forward_hook(hook)

    for block in _block_names(network):
        note(block)
    with torch.no_grad():
        ghost(torch.empty(1, 3, side, side, device="meta"))
    if missing := [s for s in strides if s not in at]:
        raise UsageError(
            f"{name} has no block at stride {missing[0]} (there is {at}); name the layers with {argument}layers"
        )
    return [at[s] for s in strides]
