import shutil

import pytest
from trees import count_by_defect, count_by_label, mvtec_tree, touch

from lightning_ad.data.checking import stop_at_missing_masks
from lightning_ad.data.layouts import find_samples
from lightning_ad.errors import DataError, UsageError

CATEGORY = "bottle"
PUBLISHED = {  # training, good and anomalous test images (Bergmann et al. 2019, table 1)
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "leather": (245, 32, 92),
    "tile": (230, 33, 84),
    "wood": (247, 19, 60),
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "hazelnut": (391, 40, 70),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "zipper": (240, 32, 119),
}


def draw_tree(root):
    mvtec_tree(root)


@pytest.fixture
def mvtec(trees, tmp_path):
    return shutil.copytree(trees["mvtec"], tmp_path / "mvtec")


def find(root, category=CATEGORY):
    return find_samples("mvtec", root, category, {})


def test_the_published_counts(tmp_path):
    for category, (train, good, bad) in PUBLISHED.items():
        touch(tmp_path / category / "train/good", train)
        touch(tmp_path / category / "test/good", good)
        touch(tmp_path / category / "test/broken", bad)
        touch(tmp_path / category / "ground_truth/broken", bad, "{:04d}_mask.png")
    found = count_by_label("mvtec", tmp_path, PUBLISHED)
    assert found == {("train", 0): 3629, ("test", 0): 467, ("test", 1): 1258}


def test_kinds_of_defect_and_masks(mvtec):
    samples = find(mvtec)
    counts = count_by_defect(samples)
    assert counts == {("train", "good"): 7, ("test", "good"): 3, ("test", "broken"): 4}
    for sample in samples:
        if sample.defect == "good":
            assert sample.mask_path is None
        else:
            name = sample.path.rpartition("/")[2]
            assert sample.mask_path.endswith(name.replace(".png", "_mask.png"))


def test_a_validation_folder_is_the_layouts_own(mvtec):
    shutil.copytree(mvtec / "bottle/test/good", mvtec / "bottle/validation/good")
    assert count_by_defect(find(mvtec))["validation", "good"] == 3


def test_a_category_can_be_the_root(mvtec):
    assert find(mvtec / "bottle", None) == find(mvtec)


def test_masks_are_paired_by_stem_not_by_position(mvtec):
    (mvtec / "bottle/ground_truth/broken/000_mask.png").unlink()
    (mvtec / "bottle/test/broken/000.png").unlink()
    for sample in find(mvtec):
        if sample.mask_path:
            assert sample.mask_path[-12:-9] == sample.path[-7:-4]


@pytest.mark.parametrize(
    ("category", "message"),
    [("bottel", r"no category 'bottel'.*bottle"), (None, "data.category to one of bottle")],
)
def test_a_wrong_category(mvtec, category, message):
    with pytest.raises(UsageError, match=message):
        find(mvtec, category)


def test_a_missing_mask_is_named_with_its_image(mvtec):
    (mvtec / "bottle/ground_truth/broken/002_mask.png").unlink()
    message = r"test/broken/002\.png has no mask: expected .*/002_mask\.png"
    with pytest.raises(DataError, match=message):
        stop_at_missing_masks(find(mvtec))


def test_all_missing_masks_are_named(mvtec):
    for name in ("000", "002"):
        (mvtec / f"bottle/ground_truth/broken/{name}_mask.png").unlink()
    with pytest.raises(DataError, match=r"broken/000\.png has no mask.*so have 1 more: 002\.png"):
        stop_at_missing_masks(find(mvtec))


def test_a_missing_test_folder(mvtec):
    shutil.rmtree(mvtec / "bottle/test")
    with pytest.raises(DataError, match="where test/good and test/<defect> were expected"):
        find(mvtec)


def test_without_any_mask_there_are_no_pixel_metrics(mvtec):
    shutil.rmtree(mvtec / "bottle/ground_truth")
    with pytest.warns(UserWarning, match="pixel metrics are n/a"):
        samples = find(mvtec)
    assert count_by_defect(samples)["test", "broken"] == 4
    assert not any(sample.mask_path for sample in samples)
