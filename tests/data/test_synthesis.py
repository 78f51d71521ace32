import numpy as np
import pytest
import torch
from perlin_numpy import generate_perlin_noise_2d

from lightning_ad.data.synthesis import Synthesis, draw_noise, noise_mask
from lightning_ad.data.textures import NoiseTextures


def rng(*seed):
    return np.random.default_rng(seed)


def drawn(synthesis, count, height=64, width=None):
    draws = [
        synthesis.draw(rng(0, 0, i), height, width or height, NoiseTextures()) for i in range(count)
    ]
    return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}


def test_a_noise_mask_is_perlin_numpys_noise_above_a_half_after_its_rotation():
    drawn, gradients = draw_noise(rng(3)), rng(1).random((5, 9))
    drawn["cells"], drawn["noise_angle"] = np.array([4, 8]), np.float32(0)
    drawn["gradients"][:5, :9] = 2 * np.pi * gradients
    expected = generate_perlin_noise_2d((64, 64), (4, 8), rng=rng(1)) > 0.5
    assert 0.02 < expected.mean() < 0.3
    upright = noise_mask(drawn, 64, 64).numpy()
    assert (upright != expected).mean() < 1e-3  # gradients are kept in single precision
    drawn["noise_angle"] = np.float32(90)
    turned = noise_mask(drawn, 64, 64).numpy()
    assert (turned != np.rot90(upright)).mean() < 1e-2
    assert noise_mask(draw_noise(rng(0)), 50, 70).shape == (50, 70)


def test_what_is_drawn_has_the_released_shares_and_ranges():
    draws = [
        Synthesis(noise="device").draw(rng(9, i), 32, 32, lambda *_: torch.zeros(3, 32, 32))
        for i in range(2000)
    ]
    table = {name: torch.stack([d[name] for d in draws]).float() for name in draws[0]}
    assert table["laid"].mean().item() == pytest.approx(0.5, abs=0.04)
    turned = table["angle"] != 0
    assert turned.float().mean().item() == pytest.approx(0.3, abs=0.04)
    for values, low, high in (
        (table["angle"][turned], -90, 90),
        (table["opacity"], 0.2, 1),
        (table["noise_angle"], -90, 90),
        (table["gradients"], 0, 2 * np.pi),
    ):
        margin = 0.02 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-6
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=2 * margin)
    for axis in (0, 1):
        counts = torch.bincount(table["cells"][:, axis].log2().long(), minlength=6)
        assert counts.numpy() == pytest.approx(2000 / 6, rel=0.2)
    assert (table["cells"][:, 0] == table["cells"][:, 1]).float().mean() < 0.25
    assert table["kinds"].shape == (2000, 3)
    assert torch.bincount(table["kinds"].long().flatten()).numpy() == pytest.approx(600, rel=0.2)


def test_noise_of_the_device_gives_the_masks_of_the_loader():
    masks = []
    for where in ("device", "loader"):
        synthesis = Synthesis(1.0, 0.0, noise=where)
        masks.append(synthesis.apply(torch.zeros(16, 3, 70, 50), drawn(synthesis, 16, 70, 50))[2])
    assert masks[0].any()
    assert (masks[0] ^ masks[1]).float().mean() < 1e-4  # rounding, at the edges


def test_outside_the_mask_the_image_is_untouched_and_inside_it_is_blended():
    synthesis = Synthesis(rotate_probability=0.0, opacity=(0.4, 0.4), augmenters=0)
    recipe = drawn(synthesis, 12)
    image = torch.rand(12, 3, 64, 64)
    normal, anomalous, mask = synthesis.apply(image, recipe)
    assert torch.equal(normal, image)
    outside = ~mask[:, None].expand_as(image)
    assert torch.equal(anomalous[outside], image[outside])
    inside = ~outside
    torch.testing.assert_close(anomalous[inside], (0.6 * image + 0.4 * recipe["texture"])[inside])
    assert 2 <= mask.flatten(1).any(1).sum() <= 10


def test_rotation_moves_the_target_too():
    synthesis = Synthesis(rotate_probability=1.0, anomaly_probability=0.0)
    image = torch.rand(4, 3, 32, 32)
    normal, anomalous, mask = synthesis.apply(image, drawn(synthesis, 4, 32))
    assert not torch.equal(normal, image)
    assert torch.equal(normal, anomalous)
    assert not mask.any()


def test_a_recipe_is_a_function_of_its_generator():
    first, again, other = (
        Synthesis().draw(rng(0, 2, i), 64, 64, NoiseTextures()) for i in (5, 5, 6)
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
