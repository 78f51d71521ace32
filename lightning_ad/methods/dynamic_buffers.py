"""Buffers whose shape is known only after a fit."""

from functools import partial

import torch
from torch import Tensor, nn


def register_dynamic_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """Registers a buffer that takes the shape of whatever is loaded into it."""
    module.register_buffer(name, value)
    module.register_load_state_dict_pre_hook(partial(_allocate, name))


def _allocate(
    name: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Gives a buffer the shape of what is about to be loaded into it."""
    incoming = state.get(prefix + name)
    if incoming is not None:
        device = module.get_buffer(name).device
        module.register_buffer(name, torch.empty_like(incoming, device=device))
