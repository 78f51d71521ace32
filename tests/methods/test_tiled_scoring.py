"""Scores by tiles: one map without seams, and the score of the worst tile."""

import pytest
import torch
from small_fits import trainer, tree_data
from torch import nn

from lightning_ad.data.sample import Prediction
from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import UsageError
from lightning_ad.features.maps import score_map
from lightning_ad.methods import PatchCore
from lightning_ad.methods.tiled_scoring import score_by_tiles


class SmallScorer(nn.Module):
    """Stride 4, a field of view of 7 px; with resize and Gaussian, 13 px to each side."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU()
        )

    def forward(self, image):
        grid = self.net(image).square().sum(1)
        return Prediction(score_map(grid, *image.shape[2:], sigma=1.0), grid.flatten(1).amax(1))


def synthetic_image(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = 0.5 + 0.3 * torch.stack(
        [(rows / 9).sin(), (columns / 7).cos(), ((rows + columns) / 13).sin()]
    )
    image[:, height // 2 : height // 2 + 9, width // 3 : width // 3 + 14] = 1.0
    return (image + 0.1 * torch.rand(3, height, width)).clamp(0, 1)[None]


@pytest.mark.parametrize(("height", "width"), [(128, 288), (192, 160), (148, 300)])
def test_the_blended_map_is_that_of_the_whole_image(height, width):
    # Offsets are multiples of the stride, and 13 px fit in the margins of 96 // 3 and 64 // 3: the
    # maps are equal everywhere.
    scorer, image = SmallScorer(), synthetic_image(height, width)
    with torch.no_grad():
        whole = scorer(image)
        for tile, overlap in ((128, 96), (128, 64)):
            tiles = Tiles.of((height, width), tile, overlap)
            maps, scores = score_by_tiles(scorer, image, tiles)[:2]
            torch.testing.assert_close(maps, whole.map, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(scores, whole.score)


def test_a_hard_seam_would_be_seen():
    scorer, image = SmallScorer(), synthetic_image(128, 288)
    with torch.no_grad():
        whole = scorer(image).map[0]
        cut = torch.cat([scorer(part).map[0] for part in image.split(96, 3)], 1)
    assert (cut - whole).abs().max() > 0.1 * whole.std()


def test_patchcore_by_tiles_is_patchcore_on_the_whole_image(trees, tmp_path):
    options = {
        "layer_dimension": None,
        "dimension": None,
        "projection": None,
        "coreset_ratio": 0.03,
        "sigma": 1.0,
    }
    module = PatchCore(backbone="resnet18", weights=None, layers=["layer1"], **options)
    trainer(tmp_path).fit(module, datamodule=tree_data(trees["mvtec"]))
    image = synthetic_image(192, 320)
    with torch.no_grad():
        whole = module.eval()(image)
        module.tiles = Tiles.of((192, 320), 192, 128)
        tiled = module.score(image)
    # The layer, its patches of 3x3, the resize and the Gaussian look 33 px to each side; the margin
    # has 42.
    torch.testing.assert_close(tiled.map, whole.map, rtol=1e-4, atol=1e-4 * float(whole.map.std()))
    torch.testing.assert_close(tiled.score, whole.score, rtol=1e-4, atol=0)


def test_score_and_further_values_are_those_of_the_worst_tile():
    def score(image):  # a tile is known by its first pixel
        first = image[:, 0, 0, 0]
        return Prediction(image[:, 0], first, torch.stack([first, first, first], 1).long())

    image = torch.arange(2 * 96 * 128).view(2, 1, 96, 128).float().flip(3)
    tiles = Tiles.of((96, 128), 64, 32)
    for block in (1, 4, 6):
        result = Prediction(*score_by_tiles(score, image, tiles, block))
        torch.testing.assert_close(result.map, image[:, 0])
        # The last row of tiles begins 32 px down; flipped, the first column holds the largest.
        expected = image[:, 0, 32, 0]
        assert torch.equal(result.score, expected)
        assert torch.equal(result.nearest, expected.long()[:, None].expand(2, 3))
    assert [len(x) for x in score_by_tiles(score, image[:0], tiles)] == [0, 0]


def test_an_image_smaller_than_a_tile_is_one():
    scorer, image = SmallScorer(), synthetic_image(40, 90)
    tiles = Tiles.of((40, 90), 96, 32)
    with torch.no_grad():
        assert torch.equal(score_by_tiles(scorer, image, tiles)[0], scorer(image).map)


def test_images_of_another_size_are_refused():
    tiles = Tiles.of((128, 160), 64, 32)
    with pytest.raises(UsageError, match=r"128x160 px .* got 96x96 px"):
        score_by_tiles(
            lambda image: (image[:, 0], image[:, 0, 0, 0]), torch.rand(1, 3, 96, 96), tiles
        )
