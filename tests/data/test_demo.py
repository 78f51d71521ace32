from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lightning_ad.data.demo import DEFECTS, defective_image, draw_demo, good_image

pytestmark = pytest.mark.xdist_group("demo images")  # which are drawn once
TRAIN, GOOD, PER_DEFECT = 30, 10, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    draw_demo(root, train=TRAIN, good=GOOD, per_defect=PER_DEFECT)
    return root


def small(path):
    image = Image.open(path).resize((128, 128), Image.Resampling.BILINEAR)
    return np.asarray(image).astype(np.float32) / 255


def test_layout_and_counts(root):
    counts = {
        str(f.relative_to(root)): len(list(f.glob("*.png")))
        for f in root.glob("*/*")
        if any(f.glob("*.png"))
    }
    expected = {"train/good": TRAIN, "test/good": GOOD}
    for defect in ("scratch", "stain", "hole", "missing_piece", "misprint"):
        expected |= {f"test/{defect}": PER_DEFECT, f"ground_truth/{defect}": PER_DEFECT}
    assert counts == expected
    assert max(f.stat().st_size for f in root.glob("*/*/*.png")) < 100_000


def test_redraw_is_identical(root):
    for split, number in (("train", 0), ("train", TRAIN - 1), ("test", 3)):
        written = np.asarray(Image.open(root / split / "good" / f"{number:03d}.png"))
        np.testing.assert_array_equal(np.asarray(good_image(0, split, number)), written)
    for defect in DEFECTS:
        image, mask = (np.asarray(drawn) for drawn in defective_image(0, defect, 1))
        np.testing.assert_array_equal(
            image, np.asarray(Image.open(root / "test" / defect / "001.png"))
        )
        written = np.asarray(Image.open(root / "ground_truth" / defect / "001_mask.png"))
        np.testing.assert_array_equal(mask, written)
    assert good_image(1, "train", 0).tobytes() != good_image(0, "train", 0).tobytes()


def test_masks_are_binary_and_of_some_size(root):
    for path in root.glob("ground_truth/*/*_mask.png"):
        mask = Image.open(path)
        image = Image.open(root / "test" / path.parent.name / path.name.replace("_mask", ""))
        assert (mask.mode, image.mode, mask.size, image.size) == (
            "L",
            "RGB",
            (256, 256),
            (256, 256),
        )
        values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255}
        assert 0.0015 < (values > 0).mean() < 0.2, path


def test_other_sizes():
    image, mask = defective_image(0, "stain", 0, size=128)
    assert image.size == mask.size == (128, 128)
    assert np.asarray(mask).any()


def test_good_images_differ(root):
    images = [small(path) for path in sorted(root.glob("train/good/*.png"))[:10]]
    assert min(np.abs(a - b).mean() for a, b in combinations(images, 2)) > 0.01


def test_the_distance_to_an_average_image_does_not_solve_it(root):
    train = np.stack([small(path) for path in sorted(root.glob("train/good/*.png"))])
    paths = sorted(root.glob("test/*/*.png"))
    labels = [path.parent.name != "good" for path in paths]
    difference = np.stack([small(path) for path in paths]) - train.mean(axis=0)
    plain = np.linalg.norm(difference, axis=3)
    standardised = np.linalg.norm(difference / (train.std(axis=0) + 0.01), axis=3)
    for maps, limit in ((plain, 0.75), (standardised, 0.8)):
        assert roc_auc_score(labels, maps.mean(axis=(1, 2))) < limit
        for sigma in (0, 2, 4):
            smooth = ndimage.gaussian_filter(maps, (0, sigma, sigma))
            assert roc_auc_score(labels, smooth.max(axis=(1, 2))) < limit
