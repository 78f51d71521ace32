"""A frozen network that gives feature maps, and knows their shapes before it has seen an image."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, fx, nn
from torchvision.models import feature_extraction

from lightning_ad.errors import NotFiniteError, UsageError
from lightning_ad.features.extraction import Extraction, Maps, Then
from lightning_ad.features.fusion import ACTIVATIONS
from lightning_ad.features.weights import TIMM, build_network
from lightning_ad.system.lazy_module import LazyModule

Module = TypeVar("Module", bound=nn.Module)
timm = LazyModule("timm")  # seconds, which a command's --help need not take
BLOCK = {"cpu": 1, "cuda": 16}  # images that go through the network together, by type of device
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
PROBE = 256  # px: side of the image by which strides are found
STEMS = ("features", "blocks", "stages")  # attributes in which networks keep their blocks


class FeatureShape(NamedTuple):
    """The channels of one layer's map, and the height and width of its grid."""

    channels: int
    height: int
    width: int


class Backbone(nn.Module):
    """Feature maps of a pre-trained network: frozen, in eval mode, and run no deeper than needed.

    Args:
        name: a torchvision model, or `timm/<name>`.
        weights: name of weights, path of a state dict, or None for random weights (see
            `build_network`).
        layers: node names (`layer2`, `features.6`); None for the last block at each of `strides`.
        strides: which blocks to take if `layers` is None; None for the last of all that has a map.
        blocks: how many images go through together, by type of device; the whole batch for a type
            without an entry.
        argument: the prefix of `layers` and `weights` in messages.

    Attributes:
        layers: names of the layers, in the order of the maps.
        body: the network as far as the deepest layer; it takes normalised images and gives a
            dictionary of maps.

    Raises:
        UsageError: for an unknown model or layer; the message lists those there are.
        WeightsError: if the weights cannot be had or do not fit.
    """

    body: fx.GraphModule
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
        network = build_network(name, weights, argument, layers or ()).eval()
        if layers is None:
            layers = _blocks_at(network, name, strides, argument)
        self.layers = list(layers)
        self.body = _as_far_as(layers, network, name, argument)
        self.requires_grad_(False)
        self.register_buffer("mean", _by_channel(MEAN), persistent=False)
        self.register_buffer("std", _by_channel(STD), persistent=False)
        self.extraction = Extraction(blocks, f"{name} {type(network).__name__}")
        self.register_load_state_dict_pre_hook(_forget_if_weights_change)
        self._shapes: dict[tuple[int, int], list[FeatureShape]] = {}

    def forward(self, image: Tensor, then: Then = list) -> Maps:
        """Returns the map [B, C_l, h_l, w_l] of each layer, or what `then` makes of the maps.

        The result of an image is the same bits in every batch and on any number of threads.

        Args:
            image: [B, 3, H, W] in [0, 1], not normalised.
            then: is called with the maps of some images at a time; what it makes of one must not
                depend on the others.

        Raises:
            NotFiniteError: if a value is NaN or infinite.
        """
        maps = self.extraction.extractor(self, image)(image, then)
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            _check_finite(maps)
        return maps

    def plain_maps(self, image: Tensor) -> Maps:
        """Returns the maps of all images at once, by the network as it was built."""
        maps = self.body((image - self.mean) / self.std)
        return [maps[layer] for layer in self.layers]

    def keep(self, folder: Path, gib: float) -> None:
        """Keeps the maps of images in a folder and takes those that are there; on a CPU only.

        See `DiskFeatures`.
        """
        self.extraction.keep(folder, gib)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: a frozen network must not update its batch statistics."""
        return super().train(False)

    def shapes(self, height: int, width: int) -> list[FeatureShape]:
        """Predicts the shape of each layer's map for images of [height, width]; computes no map.

        Raises:
            UsageError: if images of this size are too small for the network.
        """
        size = (height, width)
        if size not in self._shapes:
            self._shapes[size] = self._find_shapes(height, width)
        return self._shapes[size]

    def _find_shapes(self, height: int, width: int) -> list[FeatureShape]:
        body = _for_shapes_only(self.body)
        try:
            with torch.no_grad():
                maps = body(torch.empty(1, 3, height, width, device="meta"))
        except RuntimeError as error:
            raise UsageError(
                f"images of {height}x{width} px are too small for the backbone: "
                f"raise data.image_size ({error})"
            ) from error
        shapes = []
        for layer in self.layers:
            _, channels, rows, columns = maps[layer].shape
            shapes.append(FeatureShape(channels, rows, columns))
        return shapes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = _places(self)
        super()._apply(fn, recurse)
        if _places(self) != before:
            self.extraction.forget()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Puts a copy back into eval mode: a deep copy of a traced network forgets it."""
        super().__setstate__(state)
        self.body.eval()


def _check_finite(maps: Maps) -> None:
    """Raises NotFiniteError for the first image of which a map is not finite."""
    for level in maps:
        if bool(level.isfinite().all()):
            continue
        finite = level.flatten(1).isfinite().all(1)
        raise NotFiniteError("network's output", int(finite.int().argmin()))


def _by_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _forget_if_weights_change(
    backbone: Backbone, state: Mapping[str, Tensor], prefix: str, *_: object
) -> None:
    """Drops what was made for the weights, unless those that are loaded are the same.

    A test after a fit loads the frozen network's weights again.
    """
    for name, value in backbone.state_dict().items():
        loaded = state.get(prefix + name)
        if loaded is not None and not _same(loaded, value):
            backbone.extraction.forget()
            return


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.to(other.device), other)


def _places(module: nn.Module) -> list[tuple[torch.device, int]]:
    """Returns where the values of a module lie: elsewhere once they are moved or converted."""
    return [(value.device, value.data_ptr()) for value in module.state_dict().values()]


def _without_numbers(module: Module) -> Module:
    """Copies a module to the meta device."""
    there = {}
    for tensor in (*module.parameters(), *module.buffers()):
        there[id(tensor)] = tensor.to("meta")
    return copy.deepcopy(module, there)


def _for_shapes_only(body: fx.GraphModule) -> fx.GraphModule:
    """Copies a network to the meta device, without modules that keep the shape: the slow ones."""
    body = _without_numbers(body)
    for parent in list(body.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.BatchNorm2d, *ACTIVATIONS)):
                setattr(parent, name, nn.Identity())
    return body.eval()


def _as_far_as(
    layers: Sequence[str], network: nn.Module, name: str, argument: str
) -> fx.GraphModule:
    """Returns the network as far as the deepest layer, with the maps of all layers."""
    modules = dict(network.named_modules())
    if not all(layer in modules for layer in layers):
        _check_layers(layers, network, name, argument)
    outputs = {layer: layer for layer in layers}
    try:
        return _tools(name).create_feature_extractor(network, outputs).eval()
    except ValueError:  # among them is a module that images do not pass
        _check_layers(layers, network, name, argument)
        raise


def _tools(name: str) -> Any:
    """Returns the module that traces a network: timm's own knows what is one node in timm's."""
    return timm.models if name.startswith(TIMM) else feature_extraction


def _check_layers(layers: Sequence[str], network: nn.Module, name: str, argument: str) -> None:
    nodes = _tools(name).get_graph_node_names(network)[1]
    unknown = [layer for layer in layers if not _is_layer(layer, nodes)]
    if unknown:
        raise UsageError(
            f"{name} has no layer {', '.join(map(repr, unknown))}; "
            f"its blocks are {', '.join(_block_names(network))} ({argument}layers)"
        )


def _is_layer(layer: str, nodes: Sequence[str]) -> bool:
    """Returns whether a name is that of a node, or of a module that holds nodes."""
    return layer in nodes or any(node.startswith(f"{layer}.") for node in nodes)


def _block_names(network: nn.Module) -> list[str]:
    """Returns the blocks in order: the children of one of the `STEMS`, or else of the network."""
    for stem in STEMS:
        blocks = getattr(network, stem, None)
        if isinstance(blocks, nn.Sequential):
            return [f"{stem}.{name}" for name, _ in blocks.named_children()]
    return [name for name, _ in network.named_children()]


def _blocks_at(
    network: nn.Module, name: str, strides: Sequence[int | None], argument: str
) -> list[str]:
    """Returns the last block at each of some strides; at None, the last of all that has a map."""
    at = _last_blocks(network)
    missing = [stride for stride in strides if stride not in at]
    if missing:
        known = ", ".join(str(stride) for stride in at if stride is not None)
        raise UsageError(
            f"{name} has no block at stride {missing[0]}, only at {known}; "
            f"name the layers with {argument}layers"
        )
    return [at[stride] for stride in strides]


def _last_blocks(network: nn.Module) -> dict[int | None, str]:
    """Finds the last block at each stride, and at None the last of all, on the meta device."""
    ghost = _without_numbers(network)
    at: dict[int | None, str] = {}

    def note(block: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            stride = 2 ** round(math.log2(PROBE / output.shape[-1]))
            at[stride] = block
            at[None] = block

    for block in _block_names(network):
        ghost.get_submodule(block).register_forward_hook(
            lambda _module, _args, output, block=block: note(block, output)
        )
    with torch.no_grad():
        ghost(torch.empty(1, 3, PROBE, PROBE, device="meta"))
    return at
