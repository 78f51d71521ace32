"""Weights by name, by path and by none; what does not fit or is not there is named."""

import pytest
import torch
from torchvision.models import squeezenet1_1

from lightning_ad.errors import WeightsError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.weights import build_network, read_weights, skip_weights, weights_skipped


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


def test_weights_inside_a_larger_checkpoint(weights, tmp_path):
    state = torch.load(weights)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "run.ckpt")
    found = read_weights(tmp_path / "run.ckpt")
    assert found.keys() == state.keys()
    network = build_network("squeezenet1_1", str(weights))
    for name, value in network.state_dict().items():
        assert torch.equal(value, found[name])


def test_weights_are_skipped_only_inside():
    assert not weights_skipped()
    with skip_weights():
        assert weights_skipped()
    assert not weights_skipped()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_numbers_are_refused(weights, tmp_path, value):
    state = torch.load(weights)
    state["features.3.squeeze.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(
        WeightsError,
        match=r"the weights in .*nan\.pth are not all finite.*1 of 1024 in 'features\.3\.squeeze",
    ):
        Backbone("squeezenet1_1", str(tmp_path / "nan.pth"))
