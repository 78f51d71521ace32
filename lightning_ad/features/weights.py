"""Where the weights of a backbone come from: an enum name, a path, or nowhere; errors that say the way out."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.error import URLError

import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.system.checkpoints import check_whole

TIMM = "timm/"
_skip: ContextVar[bool] = ContextVar("skip_weights", default=False)


@contextmanager
def skip_weights() -> Iterator[None]:
    """Backbones built inside stay random: a checkpoint is about to bring their weights, so nothing is fetched."""
    token = _skip.set(True)
    try:
        yield
    finally:
        _skip.reset(token)


def weights_skipped() -> bool:
    """Whether a network that is being built is to stay random."""
    return _skip.get()


def is_path(weights: str | None) -> bool:
    """Whether `weights` is the path of a file rather than a name."""
    return weights is not None and (weights.endswith((".pth", ".pt", ".bin")) or "/" in weights)


def build_network(name: str, weights: str | None, argument: str = "model.") -> nn.Module:
    """The whole network, with its weights.

    Args:
        name: of a torchvision model, or `timm/<name>`.
        weights: the name of the torchvision weights (`IMAGENET1K_V1`) or of the timm tag (`tv_in1k`), the path
            of a state dict, or None for random weights.
        argument: what the user's name of `weights` begins with, for messages.

    Raises:
        UsageError: for an unknown model, or weights that it does not have.
        WeightsError: where the weights cannot be had or do not fit.
    """
    file = Path(weights) if weights is not None and is_path(weights) else None
    if weights_skipped() or file:
        weights = None
    build = _timm if name.startswith(TIMM) else _torchvision
    network = build(name, weights, argument)
    if file and not weights_skipped():
        _load(network, name, file)
    return network


def _torchvision(name: str, weights: str | None, argument: str) -> nn.Module:
    if name not in torchvision.models.list_models(torchvision.models):
        raise UsageError(
            f"unknown backbone '{name}'; expected a torchvision classifier (resnet18, ...) or timm/<name>"
        )
    if weights is None:
        return torchvision.models.get_model(name, weights=None, **_plain(name))
    available = torchvision.models.get_model_weights(name)
    if weights not in available.__members__:
        raise UsageError(
            f"{name} has no weights '{weights}'; it has {', '.join(available.__members__)}, or give a path"
        )
    entry = available[weights]
    try:
        return torchvision.models.get_model(name, weights=entry)
    except (URLError, OSError, RuntimeError) as error:
        file = entry.url.rpartition("/")[2]
        cache = Path(torch.hub.get_dir()) / "checkpoints" / file
        raise WeightsError(
            f"cannot get the weights {weights} of {name} ({error}). Looked for {cache} and tried {entry.url}. "
            f"Copy {file} to that place, or give its path as {argument}weights"
        ) from error


def _plain(name: str) -> dict[str, bool]:
    """Named weights give these two a graph that rescales its input; without names they must have it too."""
    return (
        {"init_weights": False, "transform_input": True}
        if name in ("googlenet", "inception_v3")
        else {}
    )


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
    tags = [m.partition(".")[2] for m in timm.list_pretrained(architecture + ".*")]
    if tag not in tags:
        raise UsageError(
            f"{name} has no weights '{weights}'; set {argument}weights to one of {', '.join(tags)}, or a path"
        )
    try:
        return timm.create_model(f"{architecture}.{tag}", pretrained=True)
    except Exception as error:  # the hub client raises a family of its own
        raise WeightsError(
            f"cannot get the weights {architecture}.{tag} of timm ({type(error).__name__}). "
            f"Download the file where there is a network, and give its path as {argument}weights"
        ) from error


def _load(network: nn.Module, name: str, path: Path) -> None:
    state = read_weights(path)
    own = network.state_dict()
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    missing = {k for k in missing if not k.endswith("num_batches_tracked")}
    if missing or unknown or shapes:
        parts = [
            f"{len(keys)} {what} (first: {min(keys)})"
            for keys, what in (
                (missing, "missing"),
                (unknown, "unknown"),
                (shapes, "of another shape"),
            )
            if keys
        ]
        raise WeightsError(
            f"the weights in {path} do not fit {name}: {'; '.join(parts)}. Is it another model's file?"
        )
    network.load_state_dict(state, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file of them, or in a checkpoint that has more (`state_dict`).

    Raises:
        WeightsError: where the file is missing, damaged, or holds more than plain data.
    """
    state = read_state(path)
    return state.get("state_dict", state)  # type: ignore[return-value]


def read_state(path: Path) -> dict[str, Tensor]:
    """A file of tensors, read without running any code in it; they stay in the file until they are looked at.

    Raises:
        WeightsError: where the file is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    check_whole(path)
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises pickle, zip and runtime errors alike
        if named := re.search(
            r"GLOBAL (\S+)|Unsupported (?:class|global|function) (\S+)", str(error)
        ):
            raise WeightsError(
                f"{path} holds more than tensors and plain data ({named[1] or named[2]}): to load it could run code, "
                "and it is refused. Take a file of a state_dict, as torch.save(model.state_dict(), ...) writes it"
            ) from error
        raise WeightsError(
            f"cannot read {path} as tensors ({type(error).__name__}): damaged, or not a PyTorch file"
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}; expected a dictionary of tensors"
        )
    return state
