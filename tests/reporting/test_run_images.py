import numpy as np
import torch
from PIL import Image

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.run_images import RunImages, picture_reader
from lightning_ad.reporting.tables import ImageResult


def data_of(trees, **options):
    root = str(trees["mvtec"])
    data = AnomalyDataModule(
        "mvtec", root, category="bottle", image_size=48, num_workers=0, **options
    )
    data.setup("test")
    return data


def rows_of(data):
    return [ImageResult(s.path, s.label, s.defect, 1.0) for s in data.samples["test"]]


def test_pictures_are_the_images_as_the_network_sees_them(trees):
    data = data_of(trees)
    read = picture_reader(data)
    (batch,) = list(data.test_dataloader())
    for i, row in enumerate(rows_of(data)):
        picture, mask = read(row)
        assert batch.path[i] == row.path
        seen = batch.image[i].permute(1, 2, 0).numpy()
        assert np.abs(picture / 255 - seen).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(mask, batch.mask[i].numpy())


def test_ignored_regions_are_hatched_and_not_defective(trees, tmp_path):
    data = data_of(trees)
    before = picture_reader(data)
    with Image.open(data.samples["test"][0].path) as image:
        width, height = image.size
    half = np.zeros((height, width), np.uint8)
    half[:, : width // 2] = 255
    Image.fromarray(half).save(tmp_path / "ignore.png")
    after = picture_reader(data_of(trees, ignore=str(tmp_path / "ignore.png")))
    for row in rows_of(data):
        plain, whole_mask = before(row)
        hatched, mask = after(row)
        assert not mask[:, :24].any()
        assert np.array_equal(mask[:, 24:], whole_mask[:, 24:])
        assert np.array_equal(hatched[:, 24:], plain[:, 24:])
        assert not np.array_equal(hatched[:, :24], plain[:, :24])


def test_colour_scale_of_the_maps_on_disk(tmp_path):
    for name, value in {"a": 1.0, "b": 5.0}.items():
        map = torch.tensor([[value, value], [value, value + 1]])
        write_map(tmp_path / f"{name}.png", map.repeat_interleave(8, 0))
    rows = [
        ImageResult("a", 0, "good", 1.0, map_path="a.png"),
        ImageResult("b", 1, "x", 6.0, map_path="b.png"),
        ImageResult("c", 1, "x", 6.0),
    ]
    images = RunImages(rows, None, tmp_path)
    assert images.colour_scale == (1.0, 6.0)
    assert images.map(rows[1]).max() == 6.0
    assert images.map(rows[2]) is None
    assert RunImages(rows[2:], None, tmp_path).colour_scale == (0.0, 1.0)
