"""A frozen network made fast on a CPU.

Normalisation, activation and sum become part of the convolution before them.
"""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Activation = tuple[str, list[float]]  # its name in oneDNN, and its arguments
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
NONE: Activation = ("none", [])
AFTER_SUM = "relu"  # the only activation that oneDNN has after a sum
# Pixels of float32 images that go together: with more, what is between the layers would leave a
# core's cache.
PIXELS = 2**18
# Multiplications of a convolution, beside which what a library does before it is nothing.
WORK = 2**26
MOST_TOGETHER = 32
IN_PLACE = {"iadd", "isub", "imul", "itruediv"}
SUMS: tuple[Callable[..., Any], ...] = (operator.add, operator.iadd, torch.add)


def fusable(image: Tensor) -> torch.dtype | None:
    """Returns the type in which fused convolutions compute these images' maps, None if they cannot.

    bfloat16 is only for processors that have it: on others it would be slower.
    """
    if image.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if image.dtype != torch.float32 or image.requires_grad:
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    if torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


class FusedNetwork:
    """A traced network, fused for images of one size: one by one, or some together.

    A library spends some 50 us before each convolution: small images go through together if that
    gives the same bits as one by one.

    Args:
        body: the network; see `fused`.
        image: [1, 3, H, W].
        dtype: of its maps.

    Attributes:
        one: the network for one image.
        together: how many images go together.
    """

    def __init__(self, body: fx.GraphModule, image: Tensor, dtype: torch.dtype) -> None:
        network = fused(body, image, dtype)
        self.dtype = dtype
        self.together = _images_together(network, image, dtype)
        images = _noise((self.together, *image.shape[1:]), dtype)
        self.one, first = _ordered(network, images[:1])
        self._many = self.one
        if self.together > 1:
            self._many, maps = _ordered(network, images)
            if not self._same_one_by_one(maps, first, images[1:]):
                self._many = self.one
                self.together = 1

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the maps of one image, or of as many as go together."""
        network = self.one if len(images) == 1 else self._many
        return network(images.to(self.dtype))

    def _same_one_by_one(
        self, together: dict[str, Tensor], first: dict[str, Tensor], others: Tensor
    ) -> bool:
        """Returns whether the maps of all images are those of the first and of each other one."""
        with torch.inference_mode():
            alone = [first, *(self.one(image) for image in others.split(1))]
        for name, maps in together.items():
            one_by_one = torch.cat([one[name] for one in alone])
            if not torch.equal(maps, one_by_one):
                return False
        return True


def _noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last).to(dtype)


def _images_together(network: fx.GraphModule, image: Tensor, dtype: torch.dtype) -> int:
    """Chooses how many images to take together: a power of two, 1 if convolutions are large."""
    work = _multiplications(network)
    if not work or sum(work) / len(work) > WORK:
        return 1
    pixels = PIXELS * image.dtype.itemsize / dtype.itemsize
    fitting = pixels / math.prod(image.shape[2:])
    return min(MOST_TOGETHER, 2 ** max(0, int(math.log2(fitting))))


def _multiplications(network: fx.GraphModule) -> list[int]:
    """Returns the number of multiplications of each fused convolution, for one image."""
    numbers = []
    for node in network.graph.nodes:
        layer = _module_of(network, node)
        if isinstance(layer, FusedConv2d):
            each = math.prod(layer.weight.shape[1:])
            numbers.append(math.prod(node.meta["shape"]) * each)
    return numbers


def fused(
    body: fx.GraphModule, image: Tensor, dtype: torch.dtype = torch.float32
) -> fx.GraphModule:
    """Copies a traced network, with normalisations, activations and sums inside its convolutions.

    The copy computes the same but for rounding, without a gradient. It takes images [N, 3, H, W] of
    the size of `image` and of `dtype`, on a CPU (`fusable`), best `channels_last`. Modules that it
    does not know stay as they are.
    """
    body = _copy(body)
    for module in body.modules():
        module.training = False  # a deep copy of a traced network forgets that it was in eval mode
        if hasattr(module, "inplace"):
            module.inplace = False  # what is moved down in the graph must find its input as it was
    graph = _Tracer().trace(body)
    network = fx.GraphModule(body, graph)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        _Shapes(network).run(image)
    for node in list(graph.nodes):
        convolution = _module_of(network, node)
        if type(convolution) is nn.Conv2d:
            _fuse(network, node, convolution, dtype)
    graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _ordered(network: fx.GraphModule, images: Tensor) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    """Returns a copy whose convolutions ordered their weights for such images, and their maps."""
    network = _copy(network)
    with torch.inference_mode():
        return network, network(images)


def _copy(network: fx.GraphModule) -> fx.GraphModule:
    """Copies a network, but not its tensors."""
    kept: dict[int, Any] = {}
    for module in network.modules():
        for values in (module.__dict__, module._parameters, module._buffers):
            tensors = [value for value in values.values() if isinstance(value, Tensor)]
            kept |= {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(network, kept)


class FusedConv2d(nn.Module):
    """A convolution and what follows it in one pass over memory, for one size of input.

    These are oneDNN's post-operations.
    """

    def __init__(
        self, like: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: Activation
    ) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.geometry = (like.padding, like.stride, like.dilation, like.groups)
        self.activation = activation
        self.ordered = False

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Returns the activation of the convolution of x, or of its sum with `added`."""
        x = x.to(self.weight.dtype)  # what is not a convolution may have made float32 of it
        if not self.ordered:
            self._order_weight(x)
        convolution = (self.weight, self.bias, *self.geometry)
        name, numbers = self.activation
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *convolution, name, numbers, "")
        after = None if name == "none" else name
        return torch.ops.mkldnn._convolution_pointwise(
            x, added.to(x.dtype), *convolution, "add", 1.0, after, numbers, ""
        )

    def _order_weight(self, x: Tensor) -> None:
        order = torch.ops.mkldnn._reorder_convolution_weight
        self.weight = order(self.weight, *self.geometry, x.shape)
        self.ordered = True


class _Tracer(fx.Tracer):
    """A tracer that looks into sequences: torchvision keeps convolution and what follows in one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


class _Shapes(fx.Interpreter):
    """An interpreter that notes the shape of each node's output."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = result.shape if isinstance(result, Tensor) else None
        return result


class _Follower(NamedTuple):
    """The only user of a node's output: a module, with its own node."""

    node: fx.Node
    module: nn.Module


def _fuse(
    network: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d, dtype: torch.dtype
) -> None:
    """Makes one node of a convolution and those after it that oneDNN can do in the same pass."""
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return
    parts = [node]  # what becomes one
    inputs = [node.args[0]]
    weight = convolution.weight
    bias = convolution.bias
    norm = _follower(network, node)
    if norm is not None and type(norm.module) is nn.BatchNorm2d:
        parts.append(norm.node)
        weight, bias = _with_norm(weight, bias, norm.module)
    place = parts[-1]
    total = _sum_to_take(node, parts[-1])
    if total is not None:
        inputs.append(_other_summand(total, parts[-1]))
        parts.append(total)
        place = total
    activation = NONE
    follower = _follower(network, parts[-1])
    if follower is not None and _can_activate(follower.module, after_sum=total is not None):
        parts.append(follower.node)
        activation = ACTIVATIONS[type(follower.module)]
    if bias is not None:
        bias = bias.to(dtype)
    layer = FusedConv2d(convolution, weight.to(dtype), bias, activation)
    _replace(network, parts, layer, inputs, place)


def _replace(
    network: fx.GraphModule,
    parts: list[fx.Node],
    layer: FusedConv2d,
    inputs: list[Any],
    place: fx.Node,
) -> None:
    """Puts a layer before the node `place`, and takes out the parts that it stands for."""
    name = f"fused_{parts[0].name}"
    network.add_submodule(name, layer)
    with network.graph.inserting_before(place):
        new = network.graph.call_module(name, tuple(inputs))
    new.meta["shape"] = parts[-1].meta["shape"]
    parts[-1].replace_all_uses_with(new)
    for part in reversed(parts):
        network.graph.erase_node(part)


def _with_norm(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor | None]:
    """Returns the weight and bias of a convolution with the normalisation after it."""
    return fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _can_activate(module: nn.Module, after_sum: bool) -> bool:
    """Returns whether oneDNN has this activation after a convolution, or after a sum with a map."""
    known = ACTIVATIONS.get(type(module))
    return known is not None and (known[0] == AFTER_SUM or not after_sum)


def _module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Returns the module that a node calls."""
    if node.op != "call_module":
        return None
    return network.get_submodule(node.target)


def _only_user(node: fx.Node) -> fx.Node | None:
    """Returns the only user of a node's output; None unless there is exactly one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _follower(network: fx.GraphModule, node: fx.Node) -> _Follower | None:
    user = _only_user(node)
    if user is None:
        return None
    module = _module_of(network, user)
    return None if module is None else _Follower(user, module)


def _sum_to_take(convolution: fx.Node, last: fx.Node) -> fx.Node | None:
    """Returns the sum after `last`, if the convolution can take it.

    It must be one of two different maps of one shape, and the convolution moves down to it: nothing
    before it may change the convolution's input.
    """
    total = _only_user(last)
    if total is None or total.op != "call_function" or total.target not in SUMS:
        return None
    other = _other_summand(total, last)
    if other is None or other.meta.get("shape") is None:
        return None
    if other.meta["shape"] != last.meta["shape"] or _input_changes(convolution, total):
        return None
    return total


def _other_summand(total: fx.Node, summand: fx.Node) -> fx.Node | None:
    """Returns what is added to a summand; None unless it is the map of another node."""
    if len(total.args) != 2 or total.kwargs:
        return None
    if not all(isinstance(arg, fx.Node) for arg in total.args):
        return None
    return next((arg for arg in total.args if arg is not summand), None)


def _input_changes(convolution: fx.Node, end: fx.Node) -> bool:
    """Returns whether a node before `end` changes the convolution's input in place."""
    node = convolution.next
    while node is not end:
        if _works_in_place(node) and node.args[0] is convolution.args[0]:
            return True
        node = node.next
    return False


def _works_in_place(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target.__name__ in IN_PLACE
    return node.op == "call_method" and node.target.endswith("_")
