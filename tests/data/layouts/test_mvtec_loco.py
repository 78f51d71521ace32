import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import count_by_label, draw_image, draw_pair, save, touch

from lightning_ad.data.checking import examine, stop_at_missing_masks
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import find_samples
from lightning_ad.data.reading import read_mask, read_regions
from lightning_ad.errors import DataError

CATEGORY = "pushpins"
PUBLISHED = {  # training, validation, good, structural, logical
    "breakfast_box": (351, 62, 102, 90, 83),
    "juice_bottle": (335, 54, 94, 94, 142),
    "pushpins": (372, 69, 138, 81, 91),
    "screw_bag": (360, 60, 122, 82, 137),
    "splicing_connectors": (354, 59, 119, 85, 108),
}
KINDS = [
    {
        "defect_name": "two_pins",
        "pixel_value": 3,
        "saturation_threshold": 20,
        "relative_saturation": False,
    },
    {
        "defect_name": "broken_pin",
        "pixel_value": 250,
        "saturation_threshold": 0.5,
        "relative_saturation": True,
    },
]


def draw_tree(root):
    """Folders of masks, whose grey value names the kind of defect."""
    rng = np.random.default_rng(4)
    base = root / CATEGORY
    for split, count in (("train", 5), ("validation", 3), ("test", 3)):
        for number in range(count):
            draw_image(base / f"{split}/good/{number:03d}.png", rng)
    for kind, grey in (("logical_anomalies", 3), ("structural_anomalies", 250)):
        for number in range(2):
            masks = base / f"ground_truth/{kind}/{number:03d}"
            draw_pair(base / f"test/{kind}/{number:03d}.png", masks / "000.png", rng, grey)
            second = Image.new("L", (48, 40))
            second.paste(grey, (40, 30, 44, 36))
            save(second, masks / "001.png")
    (base / "defects_config.json").write_text(json.dumps(KINDS))


def find(root):
    return find_samples("mvtec_loco", root, CATEGORY, {})


def a_logical_anomaly(root):
    return next(sample for sample in find(root) if sample.defect == "logical_anomalies")


@pytest.fixture
def loco(trees, tmp_path):
    return shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")


def test_the_published_counts(tmp_path):
    for category, (train, validation, good, *bad) in PUBLISHED.items():
        for split, count in (("train", train), ("validation", validation), ("test", good)):
            touch(tmp_path / category / split / "good", count)
        for kind, count in zip(("structural_anomalies", "logical_anomalies"), bad, strict=True):
            touch(tmp_path / category / "test" / kind, count)
            for number in range(count):
                touch(tmp_path / category / "ground_truth" / kind / f"{number:04d}", 2)
    found = count_by_label("mvtec_loco", tmp_path, PUBLISHED)
    assert found == {("train", 0): 1772, ("validation", 0): 304, ("test", 0): 575, ("test", 1): 993}


def test_the_masks_of_a_folder_are_joined_whatever_their_grey(trees):
    sample = a_logical_anomaly(trees["mvtec_loco"])
    mask = read_mask(sample.mask_path, (40, 48), sample.mask_threshold)
    assert mask[30:36, 40:44].all()
    assert mask.sum() > 24


def test_saturations_reach_the_metrics(trees):
    data = AnomalyDataModule(
        layout="mvtec_loco",
        root=trees["mvtec_loco"],
        category=CATEGORY,
        image_size=[80, 96],
        num_workers=0,
    )
    data.setup("test")
    found = {}
    for batch in data.test_dataloader():
        found.update(zip(batch.path, batch.regions, strict=True))
    assert len(found) == 7
    for path, regions in found.items():
        if "good" in path:
            assert regions is None
            continue
        assert regions.masks.shape == (2, 80, 96)
        # 10 x 10 and 4 x 6 px, each of them now four
        assert regions.masks.sum((1, 2)).tolist() == [400, 96]
        expected = [0.2, 20 / 24] if "logical" in path else [0.5, 0.5]
        assert regions.shares.tolist() == pytest.approx(expected)


def test_a_region_without_a_saturation_is_a_fault(loco):
    part = loco / "pushpins/ground_truth/logical_anomalies/001/000.png"
    Image.new("L", (48, 40), 7).save(part)
    (fault,) = examine(find(loco)).faults
    assert Path(fault.sample.path).parts[-2:] == ("logical_anomalies", "001.png")
    assert "has the value 7, which defects_config.json does not name" in fault.reason


LIST = '[{"pixel_value": %s, "saturation_threshold": %s, "relative_saturation": %s}]'
NO_LISTS = {
    "no JSON": "{",
    "too deep": "[" * 100_000,
    "parts missing": '[{"pixel_value": 3}]',
    "numbers": "[1]",
    "zero": LIST % (3, 0, "true"),
    "infinite threshold": LIST % (3, "1e999", "true"),
    "no number": LIST % (3, "NaN", "true"),
    "infinite value": LIST % ("1e999", 1, "false"),
    "no grey value": LIST % (300, 1, "false"),
    "text for false": LIST % (3, 1, '"false"'),
}


@pytest.mark.parametrize("text", NO_LISTS.values(), ids=list(NO_LISTS))
def test_a_list_of_saturations_that_is_none(loco, text):
    (loco / "pushpins/defects_config.json").write_text(text)
    with pytest.raises(DataError, match=r"defects_config\.json is not a list of kinds"):
        find(loco)
    (loco / "pushpins/defects_config.json").unlink()
    assert not any(sample.saturations for sample in find(loco))


def test_a_region_that_the_list_does_not_name(trees):
    sample = a_logical_anomaly(trees["mvtec_loco"])
    message = r"has the value 3, which defects_config\.json does not name"
    with pytest.raises(DataError, match=message):
        read_regions(sample.mask_path, sample.saturations[1:])


def test_an_image_without_a_folder_of_masks(loco):
    shutil.rmtree(loco / "pushpins/ground_truth/logical_anomalies/001")
    message = r"logical_anomalies/001\.png has no mask: expected .*/001\."
    with pytest.raises(DataError, match=message):
        stop_at_missing_masks(find(loco))
