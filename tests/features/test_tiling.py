import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import Prediction
from lightning_ad.data.tiling import Tiles, blending_weights, tile_offsets
from lightning_ad.errors import UsageError
from lightning_ad.features.maps import score_map
from lightning_ad.methods import PatchCore
from lightning_ad.methods.tiled_scoring import score_by_tiles


class SmallScorer(nn.Module):
    """Stride 4, a field of view of 7 px; with the bilinear resize and a Gaussian, 13 px to each side."""

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


def test_a_large_image_is_covered_as_by_hand():
    tiles = Tiles.of((3000, 4000), 512, 128)
    tops = [0, 384, 768, 1152, 1536, 1920, 2304, 2488]
    lefts = [0, 384, 768, 1152, 1536, 1920, 2304, 2688, 3072, 3456, 3488]
    assert tiles.origins == [(top, left) for top in tops for left in lefts]
    assert len(tiles) == 88
    assert tile_offsets(896, 512, 128) == [0, 384]  # fits exactly


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(200, 64, 32), (210, 64, 32), (129, 128, 96), (300, 128, 96)]
)
def test_weights_sum_to_one_and_a_cut_view_counts_for_nothing(length, tile, overlap):
    offsets = tile_offsets(length, tile, overlap)
    weights = blending_weights(offsets, tile, overlap)
    total, margin = np.zeros(length), overlap // 3
    for offset, weight in zip(offsets, weights.double().numpy(), strict=True):
        total[offset : offset + tile] += weight
        assert offset == 0 or (weight[:margin] == 0).all()
        assert offset + tile == length or (weight[-margin:] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (weights >= 0).all()


def test_the_handover_is_a_smooth_step():
    first, second = blending_weights([0, 160], 256, 96).double().numpy()
    x = (np.arange(32) + 0.5) / 32
    expected = np.concatenate([np.zeros(32), 3 * x**2 - 2 * x**3, np.ones(32)])
    np.testing.assert_allclose(second[:96], expected, atol=1e-7)
    np.testing.assert_allclose(first[160:], 1 - expected, atol=1e-7)
    assert (first[:160] == 1).all()
    assert (second[96:] == 1).all()


@pytest.mark.parametrize(("height", "width"), [(128, 288), (192, 160), (148, 300)])
def test_the_blended_map_is_that_of_the_whole_image(height, width):
    # Offsets are multiples of the stride, and 13 px fit in the margins of 96 // 3 and 64 // 3: equal everywhere.
    scorer, image = SmallScorer(), synthetic_image(height, width)
    with torch.no_grad():
        whole = scorer(image)
        for tile, overlap in ((128, 96), (128, 64)):
            maps, scores = score_by_tiles(scorer, image, Tiles.of((height, width), tile, overlap))[
                :2
            ]
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
    data = AnomalyDataModule(
        "mvtec", str(trees["mvtec"]), "bottle", image_size=64, batch_size=4, num_workers=0
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(
        module, datamodule=data
    )
    image = synthetic_image(192, 320)
    with torch.no_grad():
        whole = module.eval()(image)
        module.tiles = Tiles.of((192, 320), 192, 128)
        tiled = module.score(image)
    # The layer, its patches of 3x3, the resize and the Gaussian look 33 px to each side; the margin has 42.
    torch.testing.assert_close(tiled.map, whole.map, rtol=1e-4, atol=1e-4 * float(whole.map.std()))
    torch.testing.assert_close(tiled.score, whole.score, rtol=1e-4, atol=0)


def test_the_score_and_what_else_there_is_are_of_the_worst_tile():
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
    assert tiles.shape == (40, 90)
    with torch.no_grad():
        assert torch.equal(score_by_tiles(scorer, image, tiles)[0], scorer(image).map)
    narrow = Tiles.of((40, 150), 96, 32)
    assert narrow.shape == (40, 96)
    assert narrow.origins == [(0, 0), (0, 54)]


@pytest.mark.parametrize(
    ("tile", "overlap", "flag"),
    [
        (100, 32, "tile "),
        (32, 32, "tile "),
        *((128, overlap, "tile_overlap") for overlap in (0, 50, 128)),
    ],
)
def test_impossible_tiles(tile, overlap, flag):
    with pytest.raises(UsageError, match=rf"data\.{flag}.* multiple of 32"):
        Tiles.of((300, 400), tile, overlap)


def test_images_of_another_size_are_refused():
    tiles = Tiles.of((128, 160), 64, 32)
    with pytest.raises(UsageError, match=r"128x160 px .* 96x96 px came"):
        score_by_tiles(
            lambda image: (image[:, 0], image[:, 0, 0, 0]), torch.rand(1, 3, 96, 96), tiles
        )
