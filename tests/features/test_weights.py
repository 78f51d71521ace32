"""Weights by name, by path and by none; what does not fit or is not there is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
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
    for name in ("gone.pth", "gone.safetensors"):
        with pytest.raises(WeightsError, match=rf"no file .*{name}"):
            Backbone("resnet18", str(tmp_path / name))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(WeightsError, match=r"cannot read .*text\.safetensors as safetensors"):
        Backbone("resnet18", str(tmp_path / "text.safetensors"))


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


def of_ones_own(state):
    """Files of one network, as they come out of trainings."""
    body = {name: value for name, value in state.items() if not name.startswith("classifier")}
    five = {"classifier.1.weight": torch.zeros(5, 512, 1, 1), "classifier.1.bias": torch.zeros(5)}
    return {
        "no_head": body,
        "five_classes": body | five,
        "data_parallel": {f"module.{name}": value for name, value in state.items()},
        "compiled": {f"_orig_mod.{name}": value for name, value in body.items()},
        "in_a_module": {
            "state_dict": {f"net.backbone.{name}": value for name, value in body.items()}
            | {"net.loss.weight": torch.zeros(3)},
            "epoch": 3,
        },
        "self_supervised": {"model": body | {"projector.0.weight": torch.zeros(3)}, "lr": 0.1},
    }


def test_weights_of_ones_own(weights, tmp_path):
    """Those of the layers that classify are in no map, so a file need not have them."""
    state = torch.load(weights)
    expected = Backbone("squeezenet1_1", weights).state_dict()
    for name, content in of_ones_own(state).items():
        torch.save(content, tmp_path / f"{name}.pth")
        found = Backbone("squeezenet1_1", str(tmp_path / f"{name}.pth")).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    save_file(state, tmp_path / "model.safetensors")
    found = Backbone("squeezenet1_1", str(tmp_path / "model.safetensors")).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_layer_that_classifies_needs_its_weights(weights, tmp_path):
    torch.save(of_ones_own(torch.load(weights))["no_head"], tmp_path / "no_head.pth")
    with pytest.raises(WeightsError, match=r"2 missing \(first: classifier\.1\.bias"):
        Backbone("squeezenet1_1", str(tmp_path / "no_head.pth"), ["classifier.1"])


def test_weights_that_are_nearly_of_the_network_are_refused(weights, tmp_path):
    """A deeper network has all that is needed, and one file may hold several networks."""
    state = torch.load(weights)
    deeper = state | {"features.13.squeeze.weight": torch.zeros(3)}
    two = {
        f"{part}.{name}": value for part in ("student", "teacher") for name, value in state.items()
    }
    lacking = {name: value for name, value in state.items() if name != "features.3.squeeze.bias"}
    for content, message in [
        (deeper, "1 unknown .first: features.13.squeeze.weight"),
        (two, "2 times, under student. and teacher.: keep one"),
        (lacking, "1 missing .first: features.3.squeeze.bias"),
    ]:
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError, match=message):
            Backbone("squeezenet1_1", str(tmp_path / "wrong.pth"))


def test_a_file_may_have_a_name_of_any_bytes(weights, tmp_path):
    path = tmp_path / "w\udcff.pth"
    path.write_bytes(Path(weights).read_bytes())
    assert read_weights(path).keys() == read_weights(Path(weights)).keys()
