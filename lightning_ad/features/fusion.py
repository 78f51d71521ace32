"""A frozen network made fast on a CPU: normalisation, activation and sum become part of the convolution before."""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

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
PIXELS = (
    2**18
)  # of float32 images that go together: of more, what is between the layers would leave a core's cache
WORK = (
    2**26
)  # multiplications of a convolution, beside which what a library does before it is nothing
IN_PLACE = {"iadd", "isub", "imul", "itruediv"}
SUMS: tuple[Callable[..., Any], ...] = (operator.add, operator.iadd, torch.add)


def fusable(image: Tensor) -> torch.dtype | None:
    """The type in which fused convolutions compute what was wished for of these images; None where they are not there.

    bfloat16 is for processors that have it: others would be slower by it.
    """
    wished = image.device.type == "cpu" and image.dtype == torch.float32 and not image.requires_grad
    if not wished or not torch.backends.mkldnn.is_available():
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    have = (
        torch.cpu._is_avx512_bf16_supported() and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    return torch.bfloat16 if have else None


class FusedNetwork:
    """A traced network, fused for images of one size: one by one, or some together.

    What a library does before each convolution takes it some 50 us: small images go through together, where that gives
    the same bits as one by one.

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
        self.dtype, self.together = dtype, _together(network, image, dtype)
        shape, generator = (self.together, *image.shape[1:]), torch.Generator().manual_seed(0)
        images = (
            torch.randn(shape, generator=generator)
            .contiguous(memory_format=torch.channels_last)
            .to(dtype)
        )
        self.one, first = _ordered(network, images[:1])
        self._many = self.one
        if self.together > 1:
            self._many, found = _ordered(network, images)
            with torch.inference_mode():
                alone = [first, *(self.one(image) for image in images[1:].split(1))]
            if not all(
                torch.equal(maps, torch.cat([one[name] for one in alone]))
                for name, maps in found.items()
            ):
                self.together, self._many = 1, self.one

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The maps of one image, or of as many as go together."""
        return (self.one if len(images) == 1 else self._many)(images.to(self.dtype))


def _together(network: fx.GraphModule, image: Tensor, dtype: torch.dtype) -> int:
    """How many images are worth to go together."""
    work = []
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(
            layer := network.get_submodule(node.target), FusedConv2d
        ):
            work.append(math.prod(node.meta["shape"]) * math.prod(layer.weight.shape[1:]))
    if not work or sum(work) / len(work) > WORK:
        return 1
    room = PIXELS * image.dtype.itemsize / dtype.itemsize
    return min(32, 2 ** max(0, int(math.log2(room / math.prod(image.shape[2:])))))


def fused(
    body: fx.GraphModule, image: Tensor, dtype: torch.dtype = torch.float32
) -> fx.GraphModule:
    """A copy of a traced network in eval mode, with batch normalisation, activations and sums in its convolutions.

    What it computes is the same but for rounding. It wants images [N, 3, H, W] of the size of `image`: of `dtype`, on a
    CPU (`fusable`), best `channels_last`. It has no gradient. Modules that it does not know stay as they are.
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
        if (
            node.op == "call_module"
            and type(convolution := network.get_submodule(node.target)) is nn.Conv2d
        ):
            _fuse(network, node, convolution, dtype)
    graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _ordered(network: fx.GraphModule, images: Tensor) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    """A copy of a fused network whose convolutions have ordered their weights for images like these, and their maps."""
    network = _copy(network)
    with torch.inference_mode():
        return network, network(images)


def _copy(network: fx.GraphModule) -> fx.GraphModule:
    """A copy that has the same tensors."""
    kept: dict[int, Any] = {}
    for module in network.modules():
        values = [
            *module.__dict__.values(),
            *module._parameters.values(),
            *module._buffers.values(),
        ]
        kept |= {id(value): value for value in values if isinstance(value, Tensor)}
    return copy.deepcopy(network, kept)


class FusedConv2d(nn.Module):
    """A convolution, and what follows it, in one pass over memory (oneDNN's post-operations), for one size of input."""

    def __init__(
        self, like: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: Activation
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.geometry = (like.padding, like.stride, like.dilation, like.groups)
        self.activation, self.ordered = activation, False

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The activation of the convolution of x and, where there is one, of the sum with `added`."""
        x = x.to(self.weight.dtype)  # what is not a convolution may have made float32 of it
        if not self.ordered:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, x.shape
            )
            self.ordered = True
        name, numbers = self.activation
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *self.geometry, name, numbers, ""
            )  # fmt: skip
        after = None if name == "none" else name
        return torch.ops.mkldnn._convolution_pointwise(
            x, added.to(x.dtype), self.weight, self.bias, *self.geometry, "add", 1.0, after, numbers, ""
        )  # fmt: skip


class _Tracer(fx.Tracer):
    """Looks into sequences: torchvision keeps convolution, normalisation and activation in one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


class _Shapes(fx.Interpreter):
    """Notes the shape of what each node gives."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = result.shape if isinstance(result, Tensor) else None
        return result


def _fuse(
    network: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d, dtype: torch.dtype
) -> None:
    weight, bias, parts = convolution.weight, convolution.bias, [node]
    follower = _only_module(network, node)
    if follower is not None and type(follower[1]) is nn.BatchNorm2d:
        parts.append(follower[0])
        norm = follower[1]
        mean, variance = norm.running_mean, norm.running_var
        weight, bias = fuse_conv_bn_weights(
            weight, bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
    args, activation, last = [node.args[0]], NONE, parts[-1]
    place = last
    user = next(iter(last.users)) if len(last.users) == 1 else None
    if (
        user is not None
        and user.op == "call_function"
        and user.target in SUMS
        and _can_take(node, last, user)
    ):
        args.append(next(a for a in user.args if a is not last))
        parts.append(user)
        place = user
    follower = _only_module(network, parts[-1])
    found = None if follower is None else ACTIVATIONS.get(type(follower[1]))
    if found is not None and (
        len(args) == 1 or found[0] == "relu"
    ):  # after a sum, oneDNN has only this one
        parts.append(follower[0])
        activation = found
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return
    name = f"fused_{node.name}"
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    network.add_submodule(name, FusedConv2d(convolution, weight, bias, activation))
    with network.graph.inserting_before(place):
        new = network.graph.call_module(name, tuple(args))
    new.meta["shape"] = parts[-1].meta["shape"]
    parts[-1].replace_all_uses_with(new)
    for part in reversed(parts):
        network.graph.erase_node(part)


def _only_module(network: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, nn.Module] | None:
    """The module that alone uses what a node gives, with its node."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.op != "call_module":
        return None
    return user, network.get_submodule(user.target)


def _can_take(convolution: fx.Node, last: fx.Node, total: fx.Node) -> bool:
    """Whether a sum is one of two different maps of one shape, before which nothing changes the convolution's input."""
    if len(total.args) != 2 or total.kwargs or not all(isinstance(a, fx.Node) for a in total.args):
        return False
    other = next((a for a in total.args if a is not last), None)
    if (
        other is None
        or other.meta.get("shape") is None
        or other.meta["shape"] != last.meta["shape"]
    ):
        return False
    node = convolution.next
    while node is not total:
        name = node.target if isinstance(node.target, str) else node.target.__name__
        changes = (node.op == "call_function" and name in IN_PLACE) or (
            node.op == "call_method" and name[-1] == "_"
        )
        if changes and node.args[0] is convolution.args[0]:
            return False
        node = node.next
    return True
