import copy

import pytest
import torch
from torchvision.models import squeezenet1_1
from torchvision.models.feature_extraction import create_feature_extractor

from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.weights import skip_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(1)
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return str(path)


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
def test_default_layers_and_shapes_told_beforehand(name, layers):
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
    with pytest.raises(UsageError, match="IMAGENET1K_V1"):
        Backbone("resnet18", "IMAGENET")
    with pytest.raises(UsageError, match=r"tv_in1k"):
        Backbone("timm/resnet18", "nonsense")


def test_weights_that_do_not_fit_name_file_and_keys(weights, tmp_path):
    with pytest.raises(
        WeightsError, match=r"squeezenet\.pth do not fit resnet18: .*missing.*unknown"
    ):
        Backbone("resnet18", weights)
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(WeightsError, match=r"cannot read .*text\.pth"):
        Backbone("resnet18", str(tmp_path / "text.pth"))
    with pytest.raises(WeightsError, match=r"no file .*gone\.pth"):
        Backbone("resnet18", str(tmp_path / "gone.pth"))


def test_without_a_network_the_error_says_where_to_put_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth.*model\.weights"):
        Backbone("resnet18")


def test_named_weights_are_read_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    reference = squeezenet1_1(weights=None)
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    torch.save(reference.state_dict(), cache / "squeezenet1_1-b8a52dc0.pth")
    own = Backbone("squeezenet1_1").body.state_dict()
    torch.testing.assert_close(
        own["features.0.weight"], reference.state_dict()["features.0.weight"]
    )


def test_a_checkpoint_needs_no_weights():
    with skip_weights():
        Backbone("resnet18", "/nowhere/at/all.pth")


def test_a_deep_copy_gives_the_same_features():
    backbone = Backbone("mobilenet_v2", None)
    image = torch.rand(2, 3, 64, 64)
    for ours, copied in zip(backbone(image), copy.deepcopy(backbone)(image), strict=True):
        assert torch.equal(ours, copied)


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
