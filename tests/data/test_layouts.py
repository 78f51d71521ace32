import shutil
from pathlib import Path

import pytest
from PIL import Image

from lightning_ad.data.checking import stop_at_missing_masks
from lightning_ad.data.layouts import find_samples, layout_names
from lightning_ad.errors import DataError, UsageError


def find(layout, root, category=None, **options):
    return find_samples(layout, root, category, options)


def by_split(samples):
    counts = {}
    for s in samples:
        counts[s.split, s.defect] = counts.get((s.split, s.defect), 0) + 1
    return counts


@pytest.fixture
def mvtec(trees, tmp_path):
    return shutil.copytree(trees["mvtec"], tmp_path / "mvtec")


def test_names():
    public = [
        "btad",
        "dagm",
        "ksdd",
        "ksdd2",
        "mtd",
        "mvtec",
        "mvtec_3d",
        "mvtec_ad2",
        "mvtec_loco",
        "visa",
    ]
    assert layout_names() == sorted([*public, "demo", "folder", "table"])
    page = (Path(__file__).parents[2] / "data/README.md").read_text()
    assert all(f"`{name}`" in page for name in layout_names())


def test_mvtec(mvtec):
    samples = find("mvtec", mvtec, "bottle")
    assert by_split(samples) == {("train", "good"): 7, ("test", "good"): 3, ("test", "broken"): 4}
    for s in samples:
        if s.defect == "good":
            assert s.mask_path is None
        else:
            assert s.mask_path.endswith(s.path.rpartition("/")[2].replace(".png", "_mask.png"))


def test_mvtec_validation_folder_is_the_layouts_own(mvtec):
    shutil.copytree(mvtec / "bottle/test/good", mvtec / "bottle/validation/good")
    assert by_split(find("mvtec", mvtec, "bottle"))["validation", "good"] == 3


def test_a_category_can_be_the_root(mvtec):
    assert find("mvtec", mvtec / "bottle") == find("mvtec", mvtec, "bottle")


def test_masks_are_paired_by_stem_not_by_position(mvtec):
    (mvtec / "bottle/ground_truth/broken/000_mask.png").unlink()
    (mvtec / "bottle/test/broken/000.png").unlink()
    for s in find("mvtec", mvtec, "bottle"):
        if s.mask_path:
            assert s.mask_path[-12:-9] == s.path[-7:-4]


@pytest.mark.parametrize(
    ("category", "message"),
    [("bottel", r"no category 'bottel'.*bottle"), (None, "data.category to one of bottle")],
)
def test_mvtec_wrong_category(mvtec, category, message):
    with pytest.raises(UsageError, match=message):
        find("mvtec", mvtec, category)


def test_mvtec_missing_mask_names_image_and_mask(mvtec):
    (mvtec / "bottle/ground_truth/broken/002_mask.png").unlink()
    with pytest.raises(
        DataError, match=r"test/broken/002\.png has no mask: expected .*/002_mask\.png"
    ):
        stop_at_missing_masks(find("mvtec", mvtec, "bottle"))


def test_options_may_come_as_text(trees):
    whole = find("folder", trees["folder"], test_share=1.0)
    assert find("folder", trees["folder"], test_share="1") == whole
    with pytest.raises(
        UsageError, match=r"data\.layout_options\.test_share: expected float, got 'all'"
    ):
        find("folder", trees["folder"], test_share="all")


def test_a_missing_folder_shows_the_tree(trees, tmp_path):
    bare = shutil.copytree(trees["folder"], tmp_path / "bare", ignore=shutil.ignore_patterns("bad"))
    with pytest.raises(
        DataError, match=r"no folder .*bad, where images were expected\. Layout 'folder' expects"
    ):
        find("folder", bare)


def test_all_missing_masks_are_named(mvtec):
    for name in ("000", "002"):
        (mvtec / f"bottle/ground_truth/broken/{name}_mask.png").unlink()
    with pytest.raises(DataError, match=r"broken/000\.png has no mask.*so have 1 more: 002\.png"):
        stop_at_missing_masks(find("mvtec", mvtec, "bottle"))


def test_missing_root_draws_the_tree(tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)no data set at .*nowhere.*train/good/000\.png.*data\.root"
    ):
        find("mvtec", tmp_path / "nowhere", "bottle")


def test_unknown_layout_and_option_list_what_there_is(mvtec):
    with pytest.raises(UsageError, match=r"unknown layout 'mvtek'.*demo, folder, ksdd.*mvtec"):
        find("mvtek", mvtec)
    with pytest.raises(UsageError, match="layout 'folder' has no option 'god'; it has good, bad"):
        find("folder", mvtec, god="x")


def test_mtd_with_a_list(trees, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("exp1_num_0.jpg\nexp1_num_3.jpg\n\n")
    samples = find("mtd", trees["mtd"], train_list=str(names))
    assert {s.path[-14:] for s in samples if s.split == "train"} == {
        "exp1_num_0.jpg",
        "exp1_num_3.jpg",
    }
    assert by_split(samples)["test", "good"] == 4
    assert by_split(samples)["test", "uneven"] == 2


def test_mtd_without_a_list_is_a_seeded_split(trees):
    first, again, other = (find("mtd", trees["mtd"], seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert by_split(first)["test", "good"] == 1


def test_mtd_list_with_unknown_names(trees, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("exp9_num_9.jpg\n")
    with pytest.raises(DataError, match=r"exp9_num_9\.jpg"):
        find("mtd", trees["mtd"], train_list=str(names))


def test_folder(trees, tmp_path):
    samples = find("folder", trees["folder"], masks="masks")
    assert by_split(samples) == {("train", "good"): 5, ("test", "good"): 1, ("test", "dent"): 2}
    assert all(s.mask_path for s in samples if s.label)
    assert find("folder", trees["folder"]) == samples
    bare = shutil.copytree(
        trees["folder"], tmp_path / "bare", ignore=shutil.ignore_patterns("masks")
    )
    assert not any(s.mask_path for s in find("folder", bare))


def test_folder_flat_bad_and_only_good(trees, tmp_path):
    root = shutil.copytree(
        trees["folder"], tmp_path / "flat", ignore=shutil.ignore_patterns("masks")
    )
    Image.new("RGB", (8, 8)).save(root / "bad/loose.png")
    assert by_split(find("folder", root))["test", "anomalous"] == 1
    assert all(s.label == 0 for s in find("folder", root, bad=None))
    with pytest.raises(DataError, match=r"no folder .*wrong"):
        find("folder", root, bad="wrong")


@pytest.mark.real
def test_mtd_counts_of_the_real_tree(shared):
    samples = find(
        "mtd", shared / "data/mtd", train_list=str(shared / "data/mtd_train_filenames.txt")
    )
    published = {"good": 191, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    assert by_split(samples) == {
        ("train", "good"): 761,
        **{("test", k): n for k, n in published.items()},
    }


def test_bad_parts_may_lie_deep_in_a_folder(trees, tmp_path):
    root = shutil.copytree(trees["folder"], tmp_path / "parts")
    for kind, name in (("bad", "part9.png"), ("masks", "part9_mask.png")):
        (root / kind / "dent/cam1").mkdir()
        shutil.copy(root / kind / "dent/part0.png", root / kind / "dent/cam1" / name)
    found = {Path(s.path).name: s for s in find_samples("folder", root, None, {}) if s.label}
    assert set(found) == {"part0.png", "part1.png", "part9.png"}
    assert found["part9.png"].defect == "dent"
    assert found["part9.png"].mask_path == str(root / "masks/dent/cam1/part9_mask.png")


def test_two_masks_of_one_name_are_told(trees, tmp_path):
    root = shutil.copytree(trees["folder"], tmp_path / "parts")
    Image.open(root / "masks/dent/part0.png").save(root / "masks/dent/part0.bmp")
    with pytest.raises(DataError, match=r"part0\.(bmp|png) and part0\.(bmp|png) have one name"):
        find_samples("folder", root, None, {})
