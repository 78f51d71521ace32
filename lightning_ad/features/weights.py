"""The weights of a backbone: by the name of an enum, by a path, or none."""

import io
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.system.checkpoints import check_whole
from lightning_ad.system.lazy_module import LazyModule
from lightning_ad.system.names import is_utf8
from lightning_ad.system.paths import user_path

timm = LazyModule("timm")  # seconds, which a command's --help need not take
TIMM = "timm/"
SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", ".pt", ".bin", SAFETENSORS)
WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which checkpoints hold weights
# Children of torchvision's networks that classify; timm's networks name theirs.
HEADS = ("fc", "classifier", "heads", "head", "AuxLogits", "aux1", "aux2")
LARGEST_CHECKED = 2**28  # bytes of a tensor that is read to see whether its values are finite
# Named weights give these a graph that rescales its input; without a name they must have it, too.
RESCALING = ("googlenet", "inception_v3")
_REFUSED = re.compile(r"GLOBAL (\S+)|Unsupported (?:class|global|function) (\S+)")
SPREAD = 8  # tensors may share their bytes; so often at most
SMALL = 2**24  # bytes that are no matter
_skip: ContextVar[bool] = ContextVar("skip_weights", default=False)


@contextmanager
def skip_weights() -> Iterator[None]:
    """Leaves the weights of backbones that are built inside random, and fetches nothing.

    To be used when a checkpoint with their weights is loaded next.
    """
    token = _skip.set(True)
    try:
        yield
    finally:
        _skip.reset(token)


def weights_skipped() -> bool:
    """Returns whether a network that is being built is to stay random."""
    return _skip.get()


def is_path(weights: str | os.PathLike[str] | None) -> bool:
    """Returns whether `weights` is the path of a file rather than a name."""
    if isinstance(weights, os.PathLike):
        return True
    return weights is not None and (weights.endswith(SUFFIXES) or "/" in weights)


def build_network(
    name: str, weights: str | None, argument: str = "model.", layers: Sequence[str] = ()
) -> nn.Module:
    """Builds a whole network, with its weights.

    A file need not have those of the layers that classify, or may have those of other classes: they
    stay random.

    Args:
        name: a torchvision model, or `timm/<name>`.
        weights: the name of the torchvision weights (`IMAGENET1K_V1`) or of the timm tag
            (`tv_in1k`), the path of a state dict, or None for random weights.
        argument: the prefix of `weights` in messages.
        layers: those that are needed, if they are known; one that classifies may be among them.

    Raises:
        UsageError: for an unknown model, or weights that it does not have.
        WeightsError: if the weights cannot be had or do not fit.
    """
    if weights_skipped():
        return _build(name, None, argument)
    if weights is not None and is_path(weights):
        network = _build(name, None, argument)
        _load(network, name, Path(weights), layers)
        return network
    return _build(name, weights, argument)


def _build(name: str, weights: str | None, argument: str) -> nn.Module:
    if name.startswith(TIMM):
        return _timm(name, weights, argument)
    return _torchvision(name, weights, argument)


def _torchvision(name: str, weights: str | None, argument: str) -> nn.Module:
    if name not in torchvision.models.list_models(torchvision.models):
        raise UsageError(
            f"unknown backbone '{name}'; "
            "expected a torchvision classifier (resnet18, ...) or timm/<name>"
        )
    if weights is None:
        return torchvision.models.get_model(name, weights=None, **_options(name))
    available = torchvision.models.get_model_weights(name)
    if weights not in available.__members__:
        raise UsageError(
            f"{name} has no weights '{weights}'; "
            f"it has {', '.join(available.__members__)}, or give a path"
        )
    entry = available[weights]
    try:
        return torchvision.models.get_model(name, weights=entry)
    except (URLError, OSError, RuntimeError) as error:
        file = entry.url.rpartition("/")[2]
        cache = Path(torch.hub.get_dir()) / "checkpoints" / file
        raise WeightsError(
            f"cannot get the weights {weights} of {name} ({error}). "
            f"Looked for {cache} and tried {entry.url}. "
            f"Copy {file} to that place, or give its path as {argument}weights"
        ) from error


def _options(name: str) -> dict[str, bool]:
    """Returns the options of a network without weights."""
    if name in RESCALING:
        return {"init_weights": False, "transform_input": True}
    return {}


def _timm(name: str, weights: str | None, argument: str) -> nn.Module:
    model = name.removeprefix(TIMM)
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"{architecture[:8]}*")[:5]) or "see timm.list_models()"
        raise UsageError(f"unknown timm model '{architecture}'; did you mean {close}")
    if weights is None:
        return timm.create_model(architecture, pretrained=False)
    if not tag:
        tag = "tv_in1k" if weights == "IMAGENET1K_V1" else weights
    tags = [full.partition(".")[2] for full in timm.list_pretrained(architecture + ".*")]
    if tag not in tags:
        raise UsageError(
            f"{name} has no weights '{weights}'; "
            f"set {argument}weights to one of {', '.join(tags)}, or a path"
        )
    try:
        return timm.create_model(f"{architecture}.{tag}", pretrained=True)
    except Exception as error:  # the hub client raises a family of its own
        raise WeightsError(
            f"cannot get the weights {architecture}.{tag} of timm ({type(error).__name__}). "
            "Download the file on a machine with a network, and give its path as "
            f"{argument}weights"
        ) from error


def _load(network: nn.Module, name: str, path: Path, layers: Sequence[str]) -> None:
    own = network.state_dict()
    state = without_prefix(read_weights(path), own)
    heads = _heads(network, layers)
    _check_fit(state, network, heads, f"the weights in {path} do not fit {name}")
    fitting = {}
    for key, value in state.items():
        if key in own and own[key].shape == value.shape:
            fitting[key] = value
    network.load_state_dict(fitting, strict=False)


def _check_fit(
    state: Mapping[str, Tensor], network: nn.Module, heads: Sequence[str], message: str
) -> None:
    """Raises WeightsError if a file is not of a network; entries of its heads do not matter."""
    state = _without(state, heads)
    own = _without(network.state_dict(), heads)
    optional = "num_batches_tracked"
    missing = [key for key in own if key not in state and not key.endswith(optional)]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    unknown = [key for key in state if key not in own]
    of_its_parts = _are_of_children(unknown, network)
    if missing or reshaped or of_its_parts:
        faults = [
            *_fault(missing, "missing"),
            *_fault(unknown, "unknown"),
            *_fault(reshaped, "of another shape"),
        ]
        raise WeightsError(f"{message}: {'; '.join(faults)}. Is it another model's file?")


def _are_of_children(keys: Sequence[str], network: nn.Module) -> bool:
    """Returns whether any key would be of a part that the network has."""
    children = [child for child, _ in network.named_children()]
    return any(_is_of(key, children) for key in keys)


def _heads(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """Returns the modules that classify, without those that a layer is of."""
    named = getattr(network, "pretrained_cfg", {}).get("classifier") or ()  # of timm
    heads = [*HEADS, *([named] if isinstance(named, str) else named)]
    return [head for head in heads if not _holds_one(head, layers)]


def _holds_one(module: str, layers: Sequence[str]) -> bool:
    return any(_is_of(layer, [module]) for layer in layers)


def _without(state: Mapping[str, Tensor], modules: Sequence[str]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not _is_of(key, modules)}


def _is_of(key: str, modules: Sequence[str]) -> bool:
    """Returns whether a key of a state dict is of one of some modules."""
    return any(key == module or key.startswith(f"{module}.") for module in modules)


def without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the entries of a file under the names of a network.

    They are found behind any prefix, such as `module.` of a network on several GPUs, or
    `model.backbone.` of one in a larger module.

    Args:
        state: of the file.
        own: the state dict of the network.

    Raises:
        WeightsError: if it is there more than once.
    """
    found = {prefix: _count(state, own, prefix) for prefix in _prefixes(state, own)}
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if most == 0 or "" in best:
        return dict(state)
    if len(best) > 1:
        raise WeightsError(
            f"the network is there {len(best)} times, under {' and '.join(sorted(best))}: keep one "
            "of them in the file"
        )
    (prefix,) = best
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> set[str]:
    first = next(iter(own), "")
    prefixes = {key.removesuffix(first) for key in state if key.endswith(f".{first}")}
    return {"", *prefixes}


def _count(state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> int:
    return sum(f"{prefix}{key}" in state for key in own)


def _fault(keys: Collection[str], what: str) -> list[str]:
    """Returns one line about keys of a state dict; none if there are no such keys."""
    if not keys:
        return []
    return [f"{len(keys)} {what} (first: {min(keys)})"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the weights in a file of them, or in a checkpoint that holds more (`state_dict`).

    Raises:
        UserError: for a file of safetensors if this package is not installed.
        WeightsError: if the file is missing, damaged, or holds more than plain data, or a weight is
            not finite.
    """
    path = user_path(path)
    state = _read_safetensors(path) if path.suffix == SAFETENSORS else read_state(path)
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, dict):
            state = inner
            break
    check_finite(state, f"the weights in {path}")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def check_finite(state: Mapping[str, Any], name: str) -> None:
    """Raises WeightsError if a tensor of a state dict has a NaN or an infinite value.

    Tensors above `LARGEST_CHECKED` are left in their file.

    Args:
        state: tensors by name; other values are passed over.
        name: of the state dict, in the plural.
    """
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.nbytes > LARGEST_CHECKED:
            continue
        bad = int((~value.isfinite()).sum())
        if bad:
            raise WeightsError(
                f"{name} are not all finite numbers: {bad} of {value.numel()} in '{key}' are NaN "
                "or infinite. The file is damaged, or its training diverged: take another"
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError  # which timm brings
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path}: install safetensors (pip install safetensors)") from error
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"cannot read {path} as safetensors: {error}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a file of tensors without running any code in it.

    The tensors stay in the file until they are looked at.

    Raises:
        WeightsError: if the file is missing, damaged, or holds more than plain data.
    """
    path = user_path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    check_whole(path)
    mapped = zipfile.is_zipfile(path) and is_utf8(str(path))
    source = path if is_utf8(str(path)) else io.BytesIO(path.read_bytes())
    try:
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises pickle, zip and runtime errors alike
        raise _unreadable(path, error) from error
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}; expected a dictionary of tensors"
        )
    _check_spread(path, state)
    return state


def _check_spread(path: Path, state: dict[str, Any]) -> None:
    """Raises WeightsError if a few bytes stand for tensors much larger than the file."""
    learned = state.get("state_dict", state)
    size = 0
    for value in learned.values() if isinstance(learned, dict) else ():
        if isinstance(value, Tensor):
            size += value.numel() * value.element_size()
    if size > SPREAD * path.stat().st_size + SMALL:
        raise WeightsError(
            f"{path} is refused: its tensors would grow to {size} bytes, far more than the file has"
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    refused = _REFUSED.search(str(error))
    if refused is None:
        return WeightsError(
            f"cannot read {path} as tensors ({type(error).__name__}): "
            "damaged, or not a PyTorch file"
        )
    return WeightsError(
        f"{path} holds more than tensors and plain data ({refused[1] or refused[2]}): to load it "
        "could run code, and it is refused. Take a file of a state_dict, as "
        "torch.save(model.state_dict(), ...) writes it"
    )
