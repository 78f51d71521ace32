"""The fused network computes what the plain one does, on any number of threads."""

import copy

import pytest
import torch
from torch import nn

from lightning_ad.features import fusion
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.fusion import FusedConv2d, _ordered, fused

NETWORKS = [
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "convnext_tiny",
    "timm/resnet18",
    "timm/tf_efficientnet_b0",
]


def lively(network):
    """Gives batch statistics and weights that a fresh network has not: much would go unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.weight, 0.5),
                (module.running_var, 0.5),
                (module.bias, -0.5),
            ):
                values.data = torch.rand(values.shape, generator=generator) + low
            module.running_mean = torch.rand(module.running_mean.shape, generator=generator) - 0.5
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_the_plain_network_in_float64(name):
    backbone = lively(Backbone(name, None, strides=(4, 8, 16)))
    reference = copy.deepcopy(backbone.body).double().eval()
    for module in reference.modules():
        module.training = False
    images = torch.rand(3, 3, 64, 96)
    maps = backbone(images)
    assert backbone.extraction.fused is not None
    left = [
        m for m in backbone.extraction.fused.network.one.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert (
        not left or name == "timm/tf_efficientnet_b0"
    )  # whose normalisations are of timm's own kind
    expected = reference(((images - backbone.mean) / backbone.std).double())
    for layer, found in zip(backbone.layers, maps, strict=True):
        wanted = expected[layer]
        assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50"])
def test_every_sum_of_a_residual_block_is_fused(name):
    backbone = Backbone(name, None)
    backbone(torch.rand(1, 3, 64, 64))
    assert [
        n.name for n in backbone.extraction.fused.network.one.graph.nodes if n.op == "call_function"
    ] == []


def test_bits_depend_neither_on_threads_nor_on_the_batch():
    backbone, images, threads = (
        Backbone("mobilenet_v2", None),
        torch.rand(5, 3, 64, 64),
        torch.get_num_threads(),
    )
    together = backbone(images)
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            fresh = copy.deepcopy(backbone)
            for k, image in enumerate(images):
                for ours, one in zip(together, fresh(image[None]), strict=True):
                    assert torch.equal(ours[k], one[0])
            for ours, again in zip(together, backbone(images), strict=True):
                assert torch.equal(ours, again)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1", "resnet18"])
def test_small_images_go_together_with_the_same_bits(name, monkeypatch):
    monkeypatch.setattr(fusion, "MOST_TOGETHER", 32)  # as it is outside of the tests
    backbone, images, threads = (
        lively(Backbone(name, None)),
        torch.rand(70, 3, 64, 64),
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(2)
        together = backbone(images)
        assert backbone.extraction.fused.network.together == 32
        backbone.extraction.fused.network.together = 1
        for some, one_by_one in zip(together, backbone(images), strict=True):
            assert torch.equal(some, one_by_one)
    finally:
        torch.set_num_threads(threads)


def test_the_smaller_images_are_the_more_go_together():
    backbone, found = Backbone("mobilenet_v2", None), []
    for size in (32, 224, 512):
        backbone(torch.rand(1, 3, size, size))
        found.append(backbone.extraction.fused.network.together)
    assert found[0] > found[1] > found[2] == 1
    heavy = Backbone("resnet18", None)  # each of its convolutions is worth a turn
    heavy(torch.rand(1, 3, 224, 224))
    assert heavy.extraction.fused.network.together == 1


def test_where_bits_would_differ_images_go_one_by_one(monkeypatch):
    def rounding_otherwise(network, images):
        made, found = _ordered(network, images)
        if len(images) == 1:
            return made, found
        return made, {k: maps * (1 + 1e-6) for k, maps in found.items()}

    monkeypatch.setattr(fusion, "_ordered", rounding_otherwise)
    made = Backbone("mobilenet_v2", None)
    made(torch.rand(1, 3, 64, 64))
    assert made.extraction.fused.network.together == 1


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="needs a processor with bfloat16"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_as_near_as_that_of_pytorch(name, monkeypatch):
    backbone, images = lively(Backbone(name, None, strides=(4, 8, 16))), torch.rand(20, 3, 64, 64)
    exact = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        ours = backbone(images)
        assert backbone.extraction.fused.network.dtype == torch.bfloat16
        backbone.extraction.fused.network.together = 1
        assert all(torch.equal(some, one) for some, one in zip(ours, backbone(images), strict=True))
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", bool)
        plain = backbone(images)
    for ours_, plain_, exact_ in zip(ours, plain, exact, strict=True):
        errors = [
            float((found.float() - exact_).norm() / exact_.norm()) for found in (ours_, plain_)
        ]
        assert 0 < errors[0] < 1.2 * errors[1] < 0.2
    torch.testing.assert_close(backbone(images), exact, rtol=0, atol=0)


def test_new_weights_another_size_and_another_type_are_noticed():
    backbone, other = Backbone("resnet18", None), Backbone("resnet18", None)
    images = torch.rand(2, 3, 64, 64)
    before = backbone(images)[0]
    backbone.load_state_dict(other.state_dict())
    assert not torch.equal(backbone(images)[0], before)
    assert torch.equal(backbone(images)[0], other(images)[0])
    larger = torch.rand(1, 3, 96, 64)
    torch.testing.assert_close(backbone(larger)[0], other(larger)[0], rtol=0, atol=0)
    doubled = backbone.double()(images.double())[0]
    torch.testing.assert_close(doubled.float(), other(images)[0], rtol=1e-4, atol=1e-4)


def test_the_same_weights_loaded_again_or_left_where_they_are_keep_it():
    backbone = Backbone("squeezenet1_1", None)
    backbone(torch.rand(1, 3, 64, 64))
    made = backbone.extraction.fused
    backbone.load_state_dict(copy.deepcopy(backbone.state_dict()))
    assert backbone.to("cpu").float().extraction.fused is made
    state = copy.deepcopy(backbone.state_dict())
    state["body.features.0.bias"][0] += 1
    backbone.load_state_dict(state)
    assert backbone.extraction.fused is None
    backbone(torch.rand(1, 3, 64, 64))
    assert backbone.double().extraction.fused is None


def test_no_checkpoint_and_no_copy_has_it():
    backbone = Backbone("resnet18", None)
    backbone(torch.rand(1, 3, 64, 64))
    assert not any("fused" in name for name in backbone.state_dict())
    assert not any(isinstance(m, FusedConv2d) for m in backbone.modules())
    assert copy.deepcopy(backbone).extraction.fused is None


def test_a_sum_of_two_convolutions_and_one_that_is_used_twice():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
            self.relu = nn.ReLU()

        def forward(self, x):
            twice = self.c(x)
            return self.relu(self.a(x) + self.b(x)) + twice, self.relu(twice)

    assert_same(Branches())


def assert_same(network):
    network = torch.fx.symbolic_trace(network.eval())
    image = torch.randn(1, 3, 20, 20)
    plain = network(image.clone())
    ours = fused(network, image)(image)
    torch.testing.assert_close(ours, plain)


def test_a_sum_that_spreads_one_of_its_maps():
    class Context(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.pool = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 4, 1),
                nn.AdaptiveAvgPool2d(1),
            )

        def forward(self, x):
            x = self.a(x)
            return x + self.b(self.pool(x))

    assert_same(Context())


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_shortcut_before_its_input_is_changed_in_place(kind):
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.conv, self.relu = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 4, 3, padding=1),
                nn.ReLU(inplace=True),
            )

        def forward(self, x):
            x = x * 2
            short = self.down(x)
            if kind == "module":
                x = self.relu(x)
            else:
                x += 1
            return short + self.conv(x).flip(2)

    assert_same(Shortcut())
