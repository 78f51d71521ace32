import numpy as np
import pytest
from PIL import Image

from lightning_ad.data.textures import NoiseTextures, TextureFolder, texture_source
from lightning_ad.errors import DataError


@pytest.mark.parametrize("seed", range(30))
def test_noise_textures_fill_the_range(seed):
    texture = NoiseTextures()(np.random.default_rng(seed), 33, 47)
    assert texture.shape == (3, 33, 47)
    assert 0 <= texture.min() < texture.max() <= 1


def test_a_texture_is_a_function_of_its_generator():
    first, again, other = (
        NoiseTextures()(np.random.default_rng(seed), 16, 16) for seed in (5, 5, 6)
    )
    assert first.equal(again)
    assert not first.equal(other)


def test_photographs_are_found_to_any_depth(tmp_path):
    (tmp_path / "images/red").mkdir(parents=True)
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "images/red/0.png")
    texture = texture_source(str(tmp_path))(np.random.default_rng(0), 16, 16)
    assert texture.shape == (3, 16, 16)
    assert texture[0].mean() == 1
    assert texture[1:].max() == 0


def test_noise_takes_the_place_of_photographs():
    assert isinstance(texture_source(None), NoiseTextures)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_photographs(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"no image below .*{folder} \(data\.textures\)"):
        TextureFolder(str(tmp_path / folder))
