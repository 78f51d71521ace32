"""A backbone: torchvision's features, its shapes beforehand, frozen, and the same in a copy."""

import copy

import pytest
import torch
from torchvision.models import squeezenet1_1
from torchvision.models.feature_extraction import create_feature_extractor

from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import Backbone


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer2", "layer3"]),
        ("mobilenet_v2", ["features.6", "features.13"]),
        ("squeezenet1_1", ["features.7", "features.12"]),
        ("efficientnet_b0", ["features.3", "features.5"]),
        ("timm/resnet18", ["layer2", "layer3"]),
        ("timm/tf_efficientnet_b0", ["blocks.2", "blocks.4"]),
    ],
)
def test_default_layers_and_shapes_are_known_beforehand(name, layers):
    backbone = Backbone(name, None)
    assert backbone.layers == layers
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [tuple(s) for s in backbone.shapes(64, 96)]


def test_features_are_torchvisions_on_normalised_images(weights):
    reference = squeezenet1_1(weights=None).eval()
    reference.load_state_dict(torch.load(weights))
    image = torch.rand(2, 3, 64, 64)
    normalised = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    expected = create_feature_extractor(reference, ["features.4"])(normalised)["features.4"]
    torch.testing.assert_close(
        Backbone("squeezenet1_1", weights, ["features.4"])(image)[0], expected
    )


def test_frozen_and_always_in_eval_mode():
    backbone = Backbone("resnet18", None)
    backbone.train()
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())


def test_unknown_names_list_what_there_is():
    with pytest.raises(UsageError, match="unknown backbone 'resnet19'"):
        Backbone("resnet19", None)
    with pytest.raises(UsageError, match=r"unknown timm model 'resnet19'.*did you mean"):
        Backbone("timm/resnet19", None)
    with pytest.raises(UsageError, match=r"no layer 'layer9'; its blocks are .*layer3"):
        Backbone("resnet18", None, ["layer9"])
    with pytest.raises(UsageError, match=r"no layer 'relu_9'"):
        Backbone("resnet18", None, ["relu_9"])
    with pytest.raises(UsageError, match=r"no layer ''; its blocks are"):  # the network itself
        Backbone("resnet18", None, [""])
    with pytest.raises(UsageError, match=r"no block at stride 64, only at .*16, 32; name the lay"):
        Backbone("resnet18", None, strides=(64,))
    with pytest.raises(UsageError, match="IMAGENET1K_V1"):
        Backbone("resnet18", "IMAGENET")
    with pytest.raises(UsageError, match=r"tv_in1k"):
        Backbone("timm/resnet18", "nonsense")


def test_a_deep_copy_gives_the_same_features():
    backbone = Backbone("mobilenet_v2", None)
    image = torch.rand(2, 3, 64, 64)
    copied = copy.deepcopy(backbone)
    assert not any(module.training for module in copied.body.modules())
    for ours, theirs in zip(backbone(image), copied(image), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_the_last_block_of_all_is_there_in_any_network(backbone):
    """Of one without a stride of 32, too."""
    layers = Backbone(backbone, None, strides=(4, 8, 16, None)).layers
    last = {"squeezenet1_1": "features.12", "mobilenet_v2": "features.18", "resnet18": "layer4"}
    assert len(layers) == 4
    assert layers[-1] == last[backbone]


@pytest.mark.parametrize("blocks", [{"cpu": 1}, {"cpu": 4}, {}])
def test_no_image_gives_maps_of_none(blocks):
    backbone = Backbone("resnet18", None, blocks=blocks)
    assert [tuple(maps.shape) for maps in backbone(torch.rand(0, 3, 64, 64))] == [
        (0, 128, 8, 8),
        (0, 256, 4, 4),
    ]
