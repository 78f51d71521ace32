from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import LearnedContract

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import Backbone
from lightning_ad.methods import PFM
from lightning_ad.methods.pfm.networks import Mapping, position_encoding

SMALL = {
    "source": "squeezenet1_1",
    "target": "mobilenet_v2",
    "source_weights": None,
    "target_weights": None,
}


def small(**more):
    torch.manual_seed(0)
    return PFM(**{**SMALL, "latents": (8, 12, 16), **more})


def batch(image, index=None):
    count = len(image)
    return Batch(
        image,
        torch.zeros(count, dtype=torch.long),
        torch.zeros(count, *image.shape[2:], dtype=torch.bool),
        torch.arange(count) if index is None else index,
        [""] * count,
        ["good"] * count,
        {},
    )


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        levels = [Mapping(64, 256, 200), Mapping(128, 512, 400), Mapping(256, 1024, 900)]
    assert [count(level) for level in levels] == [
        894_312,
        3_559_888,
        17_100_532,
    ]  # 0.894 M, 3.560 M, 17.10 M
    module = PFM(source_weights=None, target_weights=None)
    assert sum(count(m) for m in module.mappings.values()) == sum(
        p.numel() for p in module.parameters() if p.requires_grad
    )
    assert [count(m) for m in module.mappings.values()] == [count(level) for level in levels]


def by_hand(mapping, x, y, name):
    """The squared error [h, w] of the mapping, by matrix products in float64.

    Norms take the running statistics.
    """
    state = {k: v.double().numpy() for k, v in mapping.state_dict().items()}
    z = x.double().numpy()

    def bare(z, key):
        return (
            np.einsum("oi,ihw->ohw", state[f"{key}.weight"][:, :, 0, 0], z)
            + state[f"{key}.bias"][:, None, None]
        )

    def full(z, conv, norm):
        z = bare(z, conv)
        mean, var, scale, shift = (
            state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        z = (z - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None] * scale[
            :, None, None
        ] + shift[:, None, None]
        return np.maximum(z, 0)

    for k in (0, 3):
        z = full(z, f"encoders.{name}.{k}", f"encoders.{name}.{k + 1}")
    z = bare(z, f"latents.{name}")
    for k in (0, 3):
        z = full(z, f"decoders.{name}.{k}", f"decoders.{name}.{k + 1}")
    return (bare(z, f"decoders.{name}.6") - y.double().numpy()) ** 2


def unit_features(module, image):
    """Unit vectors of both networks on the larger grid, level by level."""
    pairs = []
    for s, t in zip(module.source(image), module.target(image), strict=True):
        grid = (max(s.shape[2], t.shape[2]), max(s.shape[3], t.shape[3]))
        s, t = (F.interpolate(x, grid, mode="bilinear", align_corners=False) for x in (s, t))
        pairs.append((s / s.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)))
    return pairs


@pytest.mark.parametrize("direction", ["forward", "backward", "bidirectional"])
@pytest.mark.parametrize("fusion", ["mean", "product"])
def test_score_and_loss_by_hand_for_each_direction_and_level(direction, fusion):
    module = small(direction=direction, fusion=fusion).eval()
    image = torch.rand(1, 3, 96, 64)
    maps, losses = [], {}
    for (level, mapping), (s, t) in zip(
        module.mappings.items(), unit_features(module, image), strict=True
    ):
        errors = {}
        if direction != "backward":
            errors["to_target"] = by_hand(mapping, s[0], t[0], "to_target")
        if direction != "forward":
            errors["to_source"] = by_hand(mapping, t[0], s[0], "to_source")
        losses |= {f"loss_{level}_{name}": error.mean() for name, error in errors.items()}
        grid = np.mean([error.sum(0) for error in errors.values()], axis=0)
        maps.append(
            F.interpolate(torch.from_numpy(grid)[None, None], (96, 64), mode="bilinear")[
                0, 0
            ].numpy()
        )
    fused = np.mean(maps, axis=0) if fusion == "mean" else np.prod(maps, axis=0)
    with torch.no_grad():
        prediction, parts = module(image), module.losses(batch(image))
    np.testing.assert_allclose(prediction.map[0].numpy(), fused, rtol=1e-4)
    assert prediction.score.item() == pytest.approx(fused.max(), rel=1e-4)
    assert {k: v.item() for k, v in parts.items()} == pytest.approx(losses, rel=1e-4)


def test_the_latent_layer_is_shared_where_asked_for():
    shared, own = Mapping(16, 32, 8), Mapping(16, 32, 8, share_latent=False)
    assert shared.latents["to_target"] is shared.latents["to_source"]
    assert count(own) - count(shared) == 16 * 8 + 8


def test_a_level_alone_starts_as_it_does_among_others():
    together, alone = small(), small(levels=(2,))
    state = alone.mappings["2"].state_dict()
    assert all(torch.equal(state[k], v) for k, v in together.mappings["2"].state_dict().items())
    assert [g["lr"] for g in alone.parameter_groups()] == [3e-4]
    assert [g["lr"] for g in together.parameter_groups()] == [3e-3, 3e-4, 3e-4]


@pytest.mark.parametrize("channels", [8, 24, 30])
def test_position_encoding_is_the_formula(channels):
    encoding = position_encoding(channels, 5, 7)
    assert encoding.shape == (channels, 5, 7)
    half = 2 * int(np.ceil(channels / 4))
    for c in range(channels):
        axis, k = divmod(c, half)
        for y, x in ((0, 0), (3, 6), (4, 2)):
            angle = (x, y)[axis] / 10_000 ** (2 * (k // 2) / half)
            assert encoding[c, y, x].item() == pytest.approx(
                np.cos(angle) if k % 2 else np.sin(angle), abs=1e-5
            )


def test_the_position_enters_the_input_and_not_the_target():
    image = torch.rand(2, 3, 64, 64)
    plain, added, joined = (small(position=kind).eval() for kind in ("none", "add", "concat"))
    assert joined.mappings["1"].encoders["to_target"][0].in_channels == 2 * 128
    assert added.mappings["1"].encoders["to_target"][0].in_channels == 128
    mapping = added.mappings["1"]
    s, t = unit_features(added, image)[0]
    expected = by_hand(mapping, (s + position_encoding(*s.shape[1:]))[0], t[0], "to_target").sum(0)
    estimate, wanted = mapping(s, t)["to_target"]
    np.testing.assert_allclose(
        (estimate - wanted)[0].square().sum(0).detach().numpy(), expected, rtol=1e-4
    )
    assert not torch.equal(plain(image).map, added(image).map)


def test_backbones_stay_as_they_are():
    module = small().train()
    assert not module.source.training
    assert all(
        not p.requires_grad for p in [*module.source.parameters(), *module.target.parameters()]
    )
    assert len([p for g in module.parameter_groups() for p in g["params"]]) == len(
        [*module.mappings.parameters()]
    )


def with_cache(gigabytes):
    """A small model in training that keeps features, with what it asks of a trainer."""
    model = small(cache_gb=gigabytes).train()
    model.trainer = SimpleNamespace(
        datamodule=SimpleNamespace(), num_training_batches=4, accumulate_grad_batches=1
    )
    return model


def test_cached_features_are_the_same_bits(monkeypatch):
    image = torch.rand(6, 3, 64, 64)
    plain, cached = small().train(), with_cache(0.1)
    cached.on_train_start()
    calls = []
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, x: calls.append(len(x)) or forward(self, x)
    )
    for index in ([0, 1, 2], [4, 0, 5], [5, 2, -1], [-1, 3, 1]):
        rows = torch.tensor(index)
        expected = plain.losses(batch(image[rows], rows))
        calls.clear()
        assert all(
            torch.equal(expected[k], v) for k, v in cached.losses(batch(image[rows], rows)).items()
        )
        calls_now = list(calls)
    assert calls_now == [2, 2]  # the row that is not counted, and row 3, once through each network
    cached.on_train_start()
    assert len(cached._cache) == 0
    tiny = with_cache(1e-3)
    tiny.on_train_start()
    tiny.losses(batch(image))
    assert 0 < len(tiny._cache) < 6


def test_a_missing_layer_names_the_argument():
    with pytest.raises(UsageError, match=r"has no layer 'features.99'.*model.target_layers"):
        small(target_layers=["features.3", "features.99", "features.13"])


class TestPFM(LearnedContract):
    method = "PFM"
