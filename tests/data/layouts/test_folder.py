import shutil
from pathlib import Path

import pytest
from PIL import Image
from trees import count_by_defect, folder_tree

from lightning_ad.data.layouts import find_samples
from lightning_ad.errors import DataError, UsageError


def draw_tree(root):
    folder_tree(root)


def find(root, **options):
    return find_samples("folder", root, None, options)


@pytest.fixture
def parts(trees, tmp_path):
    return shutil.copytree(trees["folder"], tmp_path / "parts")


def test_masks_are_found_by_themselves(parts):
    samples = find(parts, masks="masks")
    counts = count_by_defect(samples)
    assert counts == {("train", "good"): 5, ("test", "good"): 1, ("test", "dent"): 2}
    assert all(sample.mask_path for sample in samples if sample.label)
    assert find(parts) == samples
    shutil.rmtree(parts / "masks")
    assert not any(sample.mask_path for sample in find(parts))


def test_bad_images_without_a_kind_and_no_bad_images(parts):
    shutil.rmtree(parts / "masks")
    Image.new("RGB", (8, 8)).save(parts / "bad/loose.png")
    assert count_by_defect(find(parts))["test", "anomalous"] == 1
    assert all(sample.label == 0 for sample in find(parts, bad=None))
    with pytest.raises(DataError, match=r"no folder .*wrong"):
        find(parts, bad="wrong")


def test_good_test_images_are_not_trained_on(parts):
    (parts / "good/tested").mkdir()
    (parts / "good/part0.png").rename(parts / "good/tested/part0.png")
    samples = find(parts, good_test="good/tested")
    assert count_by_defect(samples) == {
        ("train", "good"): 5,
        ("test", "good"): 1,
        ("test", "dent"): 2,
    }


def test_good_images_among_the_bad(parts):
    (parts / "bad/good").mkdir()
    with pytest.raises(DataError, match="give it as good_test, or rename it"):
        find(parts)


def test_bad_parts_may_lie_deep_in_a_folder(parts):
    for kind, name in (("bad", "part9.png"), ("masks", "part9_mask.png")):
        (parts / kind / "dent/cam1").mkdir()
        shutil.copy(parts / kind / "dent/part0.png", parts / kind / "dent/cam1" / name)
    found = {Path(sample.path).name: sample for sample in find(parts) if sample.label}
    assert set(found) == {"part0.png", "part1.png", "part9.png"}
    assert found["part9.png"].defect == "dent"
    assert found["part9.png"].mask_path == str(parts / "masks/dent/cam1/part9_mask.png")


def test_two_masks_of_one_name(parts):
    Image.open(parts / "masks/dent/part0.png").save(parts / "masks/dent/part0.bmp")
    with pytest.raises(DataError, match=r"part0\.(bmp|png) and part0\.(bmp|png) have one name"):
        find(parts)


def test_there_are_no_categories(parts):
    with pytest.raises(UsageError, match=r"has no categories; put 'dent' into data\.root"):
        find_samples("folder", parts, "dent", {})


def test_a_missing_folder_shows_the_tree(parts):
    shutil.rmtree(parts / "bad")
    message = r"no folder .*bad, where images were expected\. Layout 'folder' expects"
    with pytest.raises(DataError, match=message):
        find(parts)


def test_options_may_come_as_text(parts):
    assert find(parts, test_share="1") == find(parts, test_share=1.0)
    message = r"data\.layout_options\.test_share: expected float, got 'all'"
    with pytest.raises(UsageError, match=message):
        find(parts, test_share="all")


def test_the_good_test_images_may_lie_among_the_bad(parts):
    """As in MVTec's layout, whose folder test holds both."""
    (parts / "bad/good").mkdir()
    (parts / "good/part0.png").rename(parts / "bad/good/part0.png")
    (parts / "link").symlink_to(parts / "bad")
    for good_test in ("bad/good", "link/good", "good/../bad/good"):
        counts = count_by_defect(find(parts, good_test=good_test, masks=None))
        assert counts["test", "good"] == 1
        assert counts["train", "good"] == 5
        assert counts["test", "dent"] == 2
