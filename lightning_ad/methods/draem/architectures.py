"""Any architecture and encoder of segmentation-models-pytorch in the place of one of DRAEM's sub-networks."""

from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.features.weights import is_path, read_weights, weights_skipped

ARCHITECTURES = tuple(smp.MODEL_ARCHITECTURES_MAPPING)


def segmentation_network(
    setting: str, name: str, encoder: str, weights: str | None, inputs: int, outputs: int
) -> nn.Module:
    """A network from [B, inputs, H, W] to [B, outputs, H, W], without an output activation.

    Args:
        setting: whose network it is, for messages: `reconstructor` or `discriminator`.
        name: of the architecture (`unet`, `fpn`, ...).
        encoder: its name in segmentation-models-pytorch (`resnet34`, `tu-convnext_tiny`, ...).
        weights: of the encoder: a name that the package knows (`imagenet`), the path of a state dict of the
            encoder's classifier, or None for random weights. Where `inputs` is not 3, the first convolution's are
            repeated.
        inputs: channels.
        outputs: channels.

    Raises:
        UsageError: for an unknown architecture or encoder, or two that do not go together.
        WeightsError: where the weights cannot be had or do not fit.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        null = ", or null" if setting == "discriminator" else ""
        raise UsageError(
            f"model.{setting}: unknown network '{name}'; expected original, {known}{null}"
        )
    if not encoder.startswith("tu-") and encoder not in smp.encoders.get_encoder_names():
        raise UsageError(
            f"model.{setting}_encoder: unknown encoder '{encoder}'; see segmentation_models_pytorch.encoders."
            "get_encoder_names()"
        )
    if weights_skipped():
        weights = None
    file = Path(weights) if weights is not None and is_path(weights) else None
    if file and encoder.startswith("tu-"):
        raise UsageError(
            f"weights of the encoder {encoder} cannot be given as a file; give their name, or null"
        )
    try:
        named = None if file else weights
        network = smp.create_model(
            name, encoder, named, in_channels=3 if file else inputs, classes=outputs
        )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if named is None:
            raise UsageError(
                f"model.{setting} {name} cannot be built on the encoder {encoder} ({error}); choose another "
                f"model.{setting}_encoder"
            ) from error
        raise WeightsError(
            f"cannot get {name} with the encoder {encoder} and its weights {weights} ({error}). Where there is no "
            "network, give the path of a file of the encoder's weights (model.encoder_weights), or null"
        ) from error
    if file:
        _load(network.encoder, encoder, file)
        if inputs != 3:
            network.encoder.set_in_channels(inputs, pretrained=True)
    try:
        _freeze_unused(network, inputs)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"model.{setting}_encoder {encoder} does not take images of every size ({error}); choose another"
        ) from error
    return network


def _freeze_unused(network: nn.Module, inputs: int) -> None:
    """Some encoders keep a classifier's last layers; several processes wait for a gradient of all that is trained."""
    network.eval()(torch.zeros(1, inputs, 64, 64)).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    network.train()


def _load(encoder: nn.Module, name: str, path: Path) -> None:
    state = read_weights(path)
    own = encoder.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if missing := [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]:
        raise WeightsError(
            f"the weights in {path} do not fit the encoder {name}: {len(missing)} of {len(own)} entries are missing or "
            f"of another shape (first: {missing[0]}). Is it another model's file?"
        )
    # Not through the encoder's own load_state_dict: some of them drop a classifier that a file need not have.
    nn.Module.load_state_dict(encoder, fitting, strict=False)
