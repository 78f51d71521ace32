"""Networks of segmentation-models-pytorch in the place of DRAEM's sub-networks."""

from pathlib import Path

import torch
from torch import nn

from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.features.weights import (
    is_path,
    read_weights,
    weights_skipped,
    without_prefix,
)
from lightning_ad.system.lazy_module import LazyModule

smp = LazyModule("segmentation_models_pytorch")  # seconds, and DRAEM has networks of its own


def segmentation_network(
    setting: str, name: str, encoder: str, weights: str | None, inputs: int, outputs: int
) -> nn.Module:
    """Builds a network from [B, inputs, H, W] to [B, outputs, H, W], without output activation.

    Args:
        setting: whose network it is, for messages: `reconstructor` or `discriminator`.
        name: of the architecture (`unet`, `fpn`, ...).
        encoder: its name in segmentation-models-pytorch (`resnet34`, `tu-convnext_tiny`, ...).
        weights: of the encoder: a name that the package knows (`imagenet`), the path of a state
            dict of the encoder's classifier, or None for random weights. If `inputs` is not 3, the
            first convolution's weights are repeated.
        inputs: channels.
        outputs: channels.

    Raises:
        UsageError: for an unknown architecture or encoder, or two that do not go together.
        WeightsError: if the weights cannot be had or do not fit.
    """
    _check_names(setting, name, encoder)
    if weights_skipped():
        weights = None
    if weights is not None and is_path(weights):
        network = _build_from_file(setting, name, encoder, Path(weights), inputs, outputs)
    else:
        network = _build(setting, name, encoder, weights, inputs, outputs)
    try:
        _freeze_unused(network, inputs)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"model.{setting}_encoder {encoder} does not take images of every size ({error}); "
            "choose another"
        ) from error
    return network


def _check_names(setting: str, name: str, encoder: str) -> None:
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if name not in architectures:
        known = ", ".join(architectures)
        null = ", or null" if setting == "discriminator" else ""
        raise UsageError(
            f"model.{setting}: unknown network '{name}'; expected original, {known}{null}"
        )
    if not encoder.startswith("tu-") and encoder not in smp.encoders.get_encoder_names():
        raise UsageError(
            f"model.{setting}_encoder: unknown encoder '{encoder}'; see "
            "segmentation_models_pytorch.encoders.get_encoder_names()"
        )


def _build(
    setting: str, name: str, encoder: str, weights: str | None, inputs: int, outputs: int
) -> nn.Module:
    try:
        return smp.create_model(name, encoder, weights, in_channels=inputs, classes=outputs)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if weights is None:
            raise UsageError(
                f"model.{setting} {name} cannot be built on the encoder {encoder} ({error}); "
                f"choose another model.{setting}_encoder"
            ) from error
        raise WeightsError(
            f"cannot get {name} with the encoder {encoder} and its weights {weights} ({error}). "
            "Without access to a network, give the path of a file of the encoder's weights "
            "(model.encoder_weights), or null"
        ) from error


def _build_from_file(
    setting: str, name: str, encoder: str, weights: Path, inputs: int, outputs: int
) -> nn.Module:
    if encoder.startswith("tu-"):
        raise UsageError(
            f"weights of the encoder {encoder} cannot be given as a file; give their name, or null"
        )
    network = _build(setting, name, encoder, None, 3, outputs)
    _load(network.encoder, encoder, weights)
    if inputs != 3:
        network.encoder.set_in_channels(inputs, pretrained=True)
    return network


def _freeze_unused(network: nn.Module, inputs: int) -> None:
    """Freezes the parameters that have no gradient, such as a classifier's last layers.

    Several processes would wait for their gradients.
    """
    network.eval()(torch.zeros(1, inputs, 64, 64)).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()


def _load(encoder: nn.Module, name: str, path: Path) -> None:
    own = encoder.state_dict()
    fitting = {}
    for key, value in without_prefix(read_weights(path), own).items():
        if key in own and value.shape == own[key].shape:
            fitting[key] = value
    optional = "num_batches_tracked"
    missing = [key for key in own if key not in fitting and not key.endswith(optional)]
    if missing:
        raise WeightsError(
            f"the weights in {path} do not fit the encoder {name}: {len(missing)} of {len(own)} "
            f"entries are missing or of another shape (first: {missing[0]}). Is it another "
            "model's file?"
        )
    # Not the encoder's own load_state_dict: some drop a classifier that a file need not have.
    nn.Module.load_state_dict(encoder, fitting, strict=False)
