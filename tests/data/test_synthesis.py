import numpy as np
import pytest
import torch
from perlin_numpy import generate_perlin_noise_2d
from PIL import Image, ImageEnhance, ImageOps

from lightning_ad.data.augmenters import AUGMENTERS, PARAMETERS, augment, draw_augmenters
from lightning_ad.data.perlin import perlin_noise
from lightning_ad.data.synthesis import Synthesis, draw_noise, noise_mask
from lightning_ad.data.textures import NoiseTextures, TextureFolder
from lightning_ad.errors import DataError


def rng(*seed):
    return np.random.default_rng(seed)


def drawn(synthesis, count, height=64, width=None):
    draws = [
        synthesis.draw(rng(0, 0, i), height, width or height, NoiseTextures()) for i in range(count)
    ]
    return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}


def apply_one(name, image, *parameters):
    table = torch.zeros(1, PARAMETERS)
    table[0, : len(parameters)] = torch.tensor(parameters)
    return AUGMENTERS[name].apply(image[None], table)[0]


@pytest.fixture
def picture():
    """An 8-bit picture, so that Pillow is a reference."""
    return rng(5).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def tensor(array):
    return torch.from_numpy(np.asarray(array).astype(np.float32) / 255).permute(2, 0, 1)


def test_augmenters_equal_pillow(picture):
    image, pillow = tensor(picture), Image.fromarray(picture)
    assert torch.equal(apply_one("invert", image), 1 - image)
    torch.testing.assert_close(
        apply_one("autocontrast", image, 0.0),
        tensor(ImageOps.autocontrast(pillow)),
        atol=2 / 255,
        rtol=0,
    )
    cut = tensor(ImageOps.autocontrast(pillow, cutoff=10))
    assert (cut - tensor(ImageOps.autocontrast(pillow))).abs().max() > 10 / 255
    torch.testing.assert_close(apply_one("autocontrast", image, 0.1), cut, atol=3 / 255, rtol=0)
    torch.testing.assert_close(
        apply_one("solarize", image, 100 / 255, 1.0),
        tensor(ImageOps.solarize(pillow, 100)),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(apply_one("solarize", image, 100 / 255, 0.0), image)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    sharp = tensor(ImageEnhance.Sharpness(pillow).enhance(1.7))
    torch.testing.assert_close(
        apply_one("sharpness", image, 1.7)[inner], sharp[inner], atol=2 / 255, rtol=0
    )
    equal = tensor(ImageOps.equalize(pillow))
    assert (equal - image).abs().max() > 10 / 255
    torch.testing.assert_close(apply_one("equalize", image), equal, atol=2 / 255, rtol=0)
    middle = (slice(None), *(slice(side // 4, -(side // 4)) for side in picture.shape[:2]))
    turned = tensor(pillow.rotate(20, Image.Resampling.BILINEAR))
    torch.testing.assert_close(
        apply_one("rotate", image, 20.0)[middle], turned[middle], atol=3 / 255, rtol=0
    )


def test_augmenters_equal_hand_computed_values(picture):
    image = tensor(picture)
    torch.testing.assert_close(apply_one("gamma", image, 0.5, 1.0, 2.0)[0], image[0].sqrt())
    torch.testing.assert_close(apply_one("gamma", image, 0.5, 1.0, 2.0)[2], image[2].square())
    grey = torch.full((3, 2, 2), 0.5)
    torch.testing.assert_close(apply_one("brightness", grey, 1.2, 0.1), torch.full((3, 2, 2), 0.7))
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(
        apply_one("hue and saturation", red, 1 / 3, 0.0).flatten(), torch.tensor([0.0, 1, 0])
    )
    assert set(apply_one("posterize", image, 1.0).unique().tolist()) == {0.25, 0.75}
    shades = torch.tensor([0.0, 0.1, 0.3, 0.99]).expand(3, 1, 4)
    torch.testing.assert_close(
        apply_one("posterize", shades, 3.0)[0, 0], torch.tensor([1.0, 1, 5, 15]) / 16
    )


def test_a_row_of_a_batch_is_augmented_as_if_alone(picture):
    images = torch.stack([tensor(picture)] * 6)
    draws = [draw_augmenters(rng(i), 3) for i in range(6)]
    kinds, parameters = (torch.from_numpy(np.stack(column)) for column in zip(*draws, strict=True))
    together = augment(images, kinds, parameters)
    for i in range(6):
        alone = augment(images[i : i + 1], kinds[i : i + 1], parameters[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    assert together.min() >= 0
    assert together.max() <= 1


def test_augmenters_drawn_are_distinct():
    for i in range(50):
        assert len(set(draw_augmenters(rng(i), 3)[0].tolist())) == 3


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


def test_noise_of_a_batch_equals_perlin_numpy_given_the_same_gradients():
    shape, grids = (64, 96), [(1, 1), (2, 32), (32, 4), (8, 8)]
    angles = torch.zeros(len(grids), 33, 33, dtype=torch.float64)
    expected = []
    for i, (rows, columns) in enumerate(grids):
        angles[i, : rows + 1, : columns + 1] = torch.from_numpy(
            2 * np.pi * rng(i).random((rows + 1, columns + 1))
        )
        expected.append(generate_perlin_noise_2d(shape, (rows, columns), rng=rng(i)))
    noise = perlin_noise(angles, torch.tensor(grids), *shape)
    np.testing.assert_allclose(noise.numpy(), np.stack(expected), atol=1e-12)
    single = perlin_noise(angles.float(), torch.tensor(grids), *shape)
    np.testing.assert_allclose(single.numpy(), np.stack(expected), atol=2e-5)


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


def test_textures(tmp_path):
    for i in range(30):
        texture = NoiseTextures()(rng(i), 33, 47)
        assert texture.shape == (3, 33, 47)
        assert 0 <= texture.min() < texture.max() <= 1
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "red.png")
    assert TextureFolder(str(tmp_path))(rng(0), 16, 16)[0].mean() == 1
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(DataError, match=rf"no image below .*{folder} \(data\.textures\)"):
            TextureFolder(str(tmp_path / folder))
