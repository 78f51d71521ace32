from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from contract import LearnedContract
from kornia.losses import focal_loss as kornia_focal_loss
from scipy.ndimage import convolve
from torch import nn

from lightning_ad.data.sample import Batch
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import NoiseTextures
from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.methods import DRAEM
from lightning_ad.methods.draem.losses import focal_loss, ssim_loss
from lightning_ad.methods.draem.networks import DiscriminativeNetwork, ReconstructiveNetwork


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        assert parameters(ReconstructiveNetwork()) == 69_048_579
        assert parameters(DiscriminativeNetwork()) == 28_374_146


def test_shapes_and_initialisation():
    module = DRAEM(8, 8).eval()
    prediction = module(torch.rand(2, 3, 64, 96))
    assert prediction.map.shape == (2, 64, 96)
    assert prediction.score.shape == (2,)
    assert 0 <= prediction.map.min() <= prediction.map.max() <= 1
    weights = torch.cat([m.weight.flatten() for m in module.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    norms = torch.cat([m.weight for m in module.modules() if isinstance(m, nn.BatchNorm2d)])
    assert norms.mean().item() == pytest.approx(1, abs=0.01)


def test_image_score_is_the_maximum_of_a_21x21_mean_with_zeros_outside():
    module = DRAEM(8, 8).eval()
    prediction = module(torch.rand(1, 3, 64, 64))
    smooth = convolve(
        prediction.map[0].detach().double().numpy(), np.full((21, 21), 1 / 441), mode="constant"
    )
    assert prediction.score.item() == pytest.approx(smooth.max(), rel=1e-5)


def similarity(x, y, span=1.0):
    """Mean SSIM of [B, 3, H, W]: 11x11 Gaussian window of sigma 1.5, zeros outside.

    The constants are (0.01 L)^2 and (0.03 L)^2.
    """
    axis = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2

    def mean(a):
        return np.stack(
            [[convolve(channel, window, mode="constant") for channel in image] for image in a]
        )

    mx, my, c1, c2 = mean(x), mean(y), (0.01 * span) ** 2, (0.03 * span) ** 2
    vx, vy, cxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def test_ssim_is_the_hand_computed_one():
    """Its range is 2 where the reconstruction, the first argument, falls below -0.5."""
    x, y = np.random.default_rng(0).random((2, 1, 3, 9, 12))
    for first, span in ((x, 1.0), (2 * x - 1, 2.0)):
        ours = ssim_loss(torch.from_numpy(first), torch.from_numpy(y))
        assert ours.item() == pytest.approx(1 - similarity(first, y, span), rel=1e-6)
    assert ssim_loss(torch.from_numpy(x), torch.from_numpy(2 * x - 1)).item() != pytest.approx(
        ours.item(), rel=1e-3
    )
    assert ssim_loss(torch.from_numpy(x), torch.from_numpy(x)).item() == pytest.approx(0, abs=1e-9)


def test_focal_loss_is_the_released_formula_by_hand():
    logits = torch.tensor([[[[0.3, -1.0]], [[1.1, 2.0]]]])
    mask = torch.tensor([[[True, False]]])
    probabilities = logits.softmax(1)[0, :, 0]
    terms = []
    for pixel, anomalous in enumerate((1, 0)):
        p = probabilities[anomalous, pixel].item()
        p = (1 - 1e-5) * p + 1e-5 * (1 - p) + 1e-5
        terms.append(-((1 - p) ** 2) * np.log(p))
    assert focal_loss(logits, mask).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_focal_loss_is_kornias_where_probabilities_are_moderate():
    logits, mask = torch.randn(2, 2, 8, 8), torch.rand(2, 8, 8) > 0.5
    reference = (
        kornia_focal_loss(logits, mask.long(), alpha=None, gamma=2.0, reduction="none")
        .sum(1)
        .mean()
    )
    assert focal_loss(logits, mask).item() == pytest.approx(reference.item(), rel=1e-3)


class Tapped:
    """What goes into a network and comes out of it."""

    def __init__(self, network):
        network.register_forward_hook(self.keep)

    def keep(self, network, inputs, output):
        self.input, self.output = inputs[0], output


@pytest.mark.parametrize("joint", [True, False])
def test_the_training_step_is_the_released_one(joint):
    """The anomalous image goes in, and the rotated good one is the target.

    The discriminator sees both, in that order.
    """
    torch.manual_seed(0)
    module = DRAEM(8, 8, joint_gradient=joint, anomaly_probability=1.0, rotate_probability=1.0)
    draws = [
        module.synthesis.draw(np.random.default_rng(i), 64, 64, NoiseTextures()) for i in range(4)
    ]
    recipe = {name: torch.stack([d[name] for d in draws]) for name in draws[0]}
    good = torch.rand(4, 3, 64, 64)
    target, anomalous, mask = module.synthesis.apply(good, recipe)
    assert mask.any()
    assert not torch.equal(target, good)
    outer, inner = Tapped(module.reconstructive), Tapped(module.discriminative)
    none = torch.zeros(4, dtype=torch.long)
    losses = module.losses(Batch(good, none, mask, none, [""] * 4, [""] * 4, recipe))
    assert torch.equal(outer.input, anomalous)
    assert torch.equal(inner.input, torch.cat((outer.output, anomalous), 1))
    made, wanted = outer.output.detach().double().numpy(), target.double().numpy()
    span = 2.0 if made.min() < -0.5 else 1.0
    assert losses["loss_l2"].item() == pytest.approx(((made - wanted) ** 2).mean(), rel=1e-5)
    assert losses["loss_ssim"].item() == pytest.approx(1 - similarity(made, wanted, span), rel=1e-4)
    assert losses["loss_focal"].item() == pytest.approx(
        focal_loss(inner.output, mask).item(), rel=1e-6
    )
    losses["loss_focal"].backward()
    reached = [
        p.grad is not None and bool(p.grad.abs().sum() > 0)
        for p in module.reconstructive.parameters()
    ]
    assert reached[0] == joint
    assert any(reached) == joint


def test_scoring_shows_the_discriminator_the_reconstruction_first():
    module, image = DRAEM(8, 8).eval(), torch.rand(1, 3, 32, 32)
    outer, inner = Tapped(module.reconstructive), Tapped(module.discriminative)
    module(image)
    assert torch.equal(inner.input, torch.cat((outer.output, image), 1))


def test_defaults_of_the_synthesis_are_the_released_ones():
    assert DRAEM(8, 8).synthesis == Synthesis(0.5, 0.3, 90.0, (0.2, 1.0), 3, "loader")


def test_an_image_size_that_does_not_fit_names_one_that_does():
    with pytest.raises(UsageError, match=r"multiples of 32, got 250x260.*\[256, 256\]"):
        DRAEM(8, 8).check_image_size(250, 260)


def test_any_segmentation_network_takes_the_place_of_one_of_ours(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    module = DRAEM(
        8,
        discriminator="fpn",
        discriminator_encoder="resnet18",
        encoder_weights=str(tmp_path / "resnet18.pth"),
    ).eval()
    encoder = module.discriminative.encoder.state_dict()
    assert torch.equal(encoder["layer3.1.conv2.weight"], weights["layer3.1.conv2.weight"])
    assert encoder["conv1.weight"].shape[1] == 6
    torch.testing.assert_close(
        encoder["conv1.weight"].sum(1), weights["conv1.weight"].sum(1)
    )  # repeated, and scaled
    assert module(torch.rand(2, 3, 64, 96)).map.shape == (2, 64, 96)
    other = DRAEM(
        reconstructor="unet", reconstructor_encoder="efficientnet-b0", discriminative_width=8
    )
    image = torch.rand(2, 3, 64, 64)
    other.reconstructive(image).sum().backward()
    assert all(p.grad is not None for p in other.reconstructive.parameters() if p.requires_grad)


def test_without_a_discriminator_the_map_is_the_squared_error():
    module = DRAEM(8, discriminator=None).eval()
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(
        module(image).map, ((module.reconstructive(image) - image) ** 2).sum(1)
    )


def test_errors_name_the_argument(tmp_path):
    for arguments, message in (
        ({"discriminator": "hourglass"}, "unknown network 'hourglass'"),
        (
            {"discriminator": "unet", "discriminator_encoder": "resnet17"},
            "unknown encoder 'resnet17'",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            DRAEM(8, 8, **arguments)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="do not fit the encoder resnet18"):
        DRAEM(
            8,
            discriminator="unet",
            discriminator_encoder="resnet18",
            encoder_weights=str(tmp_path / "other.pth"),
        )


def test_a_milestone_never_comes_before_the_first_step():
    module = DRAEM(8, 8, lr_milestones=(0.25, 0.5))
    module.trainer = SimpleNamespace(max_epochs=2)
    optimizer = module.default_optimizer(module.parameter_groups())
    module.default_scheduler(optimizer)
    assert optimizer.param_groups[0]["lr"] == 1e-4


def test_an_encoder_that_the_architecture_does_not_take_is_said():
    with pytest.raises(
        UsageError, match=r"model\.discriminator dpt cannot be built .* choose another model\.disc"
    ):
        DRAEM(8, discriminator="dpt", discriminator_encoder="resnet34")
    with pytest.raises(
        UsageError,
        match=r"model\.reconstructor: unknown network 'unett'; expected original, .*unet",
    ):
        DRAEM(8, 8, reconstructor="unett")


def reconstructions():
    """Two batches, of which only the first falls below -0.5."""
    draw = torch.Generator().manual_seed(0)
    target = torch.rand(4, 3, 32, 32, generator=draw)
    found = target + 0.2 * torch.randn(target.shape, generator=draw)
    found[0, 0, 0, 0] = -0.6
    found[2:] = found[2:].clamp_min(-0.4)
    return found, target


def loss_of_share(rank):
    found, target = (t[2 * rank : 2 * rank + 2] for t in reconstructions())
    return ssim_loss(found, target, over_processes=True).item()


@pytest.mark.distributed
def test_the_range_of_ssim_is_that_of_all_processes(over_processes):
    whole, apart = (
        ssim_loss(*reconstructions()).item(),
        ssim_loss(*(t[2:] for t in reconstructions())).item(),
    )
    shares = over_processes(2, loss_of_share)
    assert sum(shares) / 2 == pytest.approx(whole, abs=1e-6)
    assert abs(shares[1] - apart) > 1e-3


class TestDRAEM(LearnedContract):
    method = "DRAEM"
    metrics_tolerance = 1e-4  # its convolutions round differently in batches of another size
