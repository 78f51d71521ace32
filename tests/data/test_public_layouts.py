"""The layouts of public data sets: counts on trees of the published shape, and the traps of each."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from runs import typed

from lightning_ad.data.checking import examine, stop_at_missing_masks
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import find_samples
from lightning_ad.data.reading import read_mask, read_regions
from lightning_ad.errors import DataError, UsageError

MVTEC = {  # training, good and anomalous test images (Bergmann et al. 2019, table 1)
    "carpet": (280, 28, 89), "grid": (264, 21, 57), "leather": (245, 32, 92), "tile": (230, 33, 84),
    "wood": (247, 19, 60), "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109),
    "hazelnut": (391, 40, 70), "metal_nut": (220, 22, 93), "pill": (267, 26, 141), "screw": (320, 41, 119),
    "toothbrush": (60, 12, 30), "transistor": (213, 60, 40), "zipper": (240, 32, 119),
}  # fmt: skip
LOCO = {  # training, validation, good, structural, logical
    "breakfast_box": (351, 62, 102, 90, 83), "juice_bottle": (335, 54, 94, 94, 142),
    "pushpins": (372, 69, 138, 81, 91), "screw_bag": (360, 60, 122, 82, 137),
    "splicing_connectors": (354, 59, 119, 85, 108),
}  # fmt: skip
THREE_D = {  # training, validation, good, anomalous
    "bagel": (244, 22, 22, 88), "cable_gland": (223, 23, 21, 87), "carrot": (286, 29, 27, 132),
    "cookie": (210, 22, 28, 103), "dowel": (288, 34, 26, 104), "foam": (236, 27, 20, 80),
    "peach": (361, 42, 26, 106), "potato": (300, 33, 22, 92), "rope": (298, 33, 32, 69), "tire": (210, 29, 25, 87),
}  # fmt: skip
VISA = {  # training and good test images of the table 1cls; 100 are anomalous in each
    "candle": (900, 100), "capsules": (542, 60), "cashew": (450, 50), "chewinggum": (453, 50), "fryum": (450, 50),
    "macaroni1": (900, 100), "macaroni2": (900, 100), "pcb1": (904, 100), "pcb2": (901, 100), "pcb3": (905, 101),
    "pcb4": (904, 101), "pipe_fryum": (450, 50),
}  # fmt: skip
BTAD = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}


def touch(folder, count, name="{:04d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / name.format(i)).touch()


def counts(layout, root, categories, **options):
    """(split, anomalous) of all categories."""
    samples = [s for c in categories for s in find_samples(layout, root, c, options)]
    assert all((s.mask_path is None) == (s.label == 0) for s in samples)
    return Counter((s.split, s.label) for s in samples)


def test_mvtec_has_the_published_counts(tmp_path):
    for category, (train, good, bad) in MVTEC.items():
        touch(tmp_path / category / "train/good", train)
        touch(tmp_path / category / "test/good", good)
        touch(tmp_path / category / "test/broken", bad)
        touch(tmp_path / category / "ground_truth/broken", bad, "{:04d}_mask.png")
    assert counts("mvtec", tmp_path, MVTEC) == {
        ("train", 0): 3629,
        ("test", 0): 467,
        ("test", 1): 1258,
    }


def test_loco_has_the_published_counts(tmp_path):
    for category, (train, validation, good, *bad) in LOCO.items():
        for split, count in (("train", train), ("validation", validation), ("test", good)):
            touch(tmp_path / category / split / "good", count)
        for kind, count in zip(("structural_anomalies", "logical_anomalies"), bad, strict=True):
            touch(tmp_path / category / "test" / kind, count)
            for i in range(count):
                touch(tmp_path / category / "ground_truth" / kind / f"{i:04d}", 2)
    found = counts("mvtec_loco", tmp_path, LOCO)
    assert found == {("train", 0): 1772, ("validation", 0): 304, ("test", 0): 575, ("test", 1): 993}


def test_3d_has_the_published_counts(tmp_path):
    for category, (train, validation, good, bad) in THREE_D.items():
        for split, count in (("train", train), ("validation", validation), ("test", good)):
            touch(tmp_path / category / split / "good/rgb", count)
        touch(tmp_path / category / "test/good/gt", good)
        touch(tmp_path / category / "test/hole/rgb", bad)
        touch(tmp_path / category / "test/hole/gt", bad)
    found = counts("mvtec_3d", tmp_path, THREE_D)
    assert found == {("train", 0): 2656, ("validation", 0): 294, ("test", 0): 249, ("test", 1): 948}


def test_visa_has_the_published_counts(tmp_path):
    rows = [["object", "split", "label", "image", "mask"]]
    for name, (train, good) in VISA.items():
        (tmp_path / name).mkdir()
        rows += [[name, "train", "normal", f"{name}/n{i}.JPG", ""] for i in range(train)]
        rows += [[name, "test", "normal", f"{name}/t{i}.JPG", ""] for i in range(good)]
        rows += [
            [name, "test", "anomaly", f"{name}/a{i}.JPG", f"{name}/a{i}.png"] for i in range(100)
        ]
    (tmp_path / "split_csv").mkdir()
    with (tmp_path / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = counts("visa", tmp_path, VISA)
    assert found == {("train", 0): 8659, ("test", 0): 962, ("test", 1): 1200}
    assert found["train", 0] + found["test", 0] == 9621


def test_btad_has_the_published_counts(tmp_path):
    for product, (train, good, bad) in BTAD.items():
        suffix = "png" if product == "02" else "bmp"
        touch(tmp_path / product / "train/ok", train, "{:04d}." + suffix)
        touch(tmp_path / product / "test/ok", good, "{:04d}." + suffix)
        touch(tmp_path / product / "test/ko", bad, "{:04d}." + suffix)
        touch(
            tmp_path / product / "ground_truth/ko",
            bad,
            "{:04d}." + ("bmp" if product == "03" else "png"),
        )
    assert counts("btad", tmp_path, BTAD) == {
        ("train", 0): 1799,
        ("test", 0): 451,
        ("test", 1): 290,
    }


def blank_or_not(path, defective):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 255 if defective else 0).save(path)


def test_ksdd_has_the_published_counts(tmp_path):
    for number in range(399):
        item = tmp_path / f"kos{number // 8 + 1:02d}"
        touch(item, 0)
        (item / f"Part{number % 8}.jpg").touch()
        blank_or_not(item / f"Part{number % 8}_label.bmp", number < 52)
    found = counts("ksdd", tmp_path, [None])
    assert found["test", 1] == 52
    assert found["train", 0] + found["test", 0] == 347


def test_ksdd2_has_the_published_counts(tmp_path):
    for split, good, bad in (("train", 2085, 246), ("test", 894, 110)):
        touch(tmp_path / split, good + bad, "{}.png")
        for i in range(good + bad):
            blank_or_not(tmp_path / split / f"{i}_GT.png", i >= good)
    for name in ("10301 (copy).png", "10301_GT (copy).png"):  # the archive has both
        blank_or_not(tmp_path / "train" / name, True)
    assert counts("ksdd2", tmp_path, [None]) == {
        ("train", 0): 2085,
        ("test", 0): 894,
        ("test", 1): 110,
    }


def test_mtd_has_the_published_counts(tmp_path):
    kinds = {"Free": 952, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103}
    for kind, count in kinds.items():
        for suffix in ("jpg", "png"):
            touch(tmp_path / f"MT_{kind}/Imgs", count, kind + "_{}." + suffix)
    (tmp_path / "train.txt").write_text("\n".join(f"Free_{i}.jpg" for i in range(761)))
    found = counts("mtd", tmp_path, [None], train_list=str(tmp_path / "train.txt"))
    assert found == {("train", 0): 761, ("test", 0): 191, ("test", 1): 392}


def test_dagm_has_the_published_counts(tmp_path):
    """In all; which class lacks the four that are in Test more often is not published."""
    sizes = {f"Class{k}": 1 if k < 7 else 2 for k in range(1, 11)}
    for name, times in sizes.items():
        for split in ("Train", "Test"):
            touch(tmp_path / name / split, 575 * times, "{:04d}.PNG")
            bad = 75 * times + {"Class10 Train": -4, "Class10 Test": 4}.get(f"{name} {split}", 0)
            touch(tmp_path / name / split / "Label", bad, "{:04d}_label.PNG")
    found = counts("dagm", tmp_path, sizes)
    assert found == {("train", 0): 8050 - 1046, ("test", 0): 8050 - 1054, ("test", 1): 1054}


def test_the_masks_of_a_folder_are_joined_whatever_their_grey(trees):
    samples = find_samples("mvtec_loco", trees["mvtec_loco"], "pushpins", {})
    sample = next(s for s in samples if s.defect == "logical_anomalies")
    mask = read_mask(sample.mask_path, (40, 48), sample.mask_threshold)
    assert mask[30:36, 40:44].all()
    assert mask.sum() > 24


def test_loco_saturations_reach_the_metrics(trees):
    data = AnomalyDataModule(
        layout="mvtec_loco",
        root=trees["mvtec_loco"],
        category="pushpins",
        image_size=[80, 96],
        num_workers=0,
    )
    data.setup("test")
    found = {
        path: r
        for batch in data.test_dataloader()
        for path, r in zip(batch.path, batch.regions, strict=True)
    }
    assert len(found) == 7
    for path, regions in found.items():
        if "good" in path:
            assert regions is None
            continue
        assert regions.masks.shape == (2, 80, 96)
        assert regions.masks.sum((1, 2)).tolist() == [
            400,
            96,
        ]  # 10 x 10 and 4 x 6 px, each now of four
        assert regions.shares.tolist() == pytest.approx(
            [0.2, 20 / 24] if "logical" in path else [0.5, 0.5]
        )


def test_a_region_without_a_saturation_is_a_fault(trees, tmp_path):
    root = shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")
    part = root / "pushpins/ground_truth/logical_anomalies/001/000.png"
    Image.new("L", (48, 40), 7).save(part)
    faults = examine(find_samples("mvtec_loco", root, "pushpins", {})).faults
    assert [Path(fault.sample.path).parts[-2:] for fault in faults] == [
        ("logical_anomalies", "001.png")
    ]
    assert "has the value 7, which defects_config.json does not name" in faults[0].reason


ZERO = '[{"pixel_value": 3, "saturation_threshold": 0, "relative_saturation": true}]'


@pytest.mark.parametrize("text", ["{", '[{"pixel_value": 3}]', "[1]", ZERO])
def test_a_list_of_saturations_that_is_none_is_told(trees, tmp_path, text):
    root = shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")
    (root / "pushpins/defects_config.json").write_text(text)
    with pytest.raises(DataError, match=r"defects_config\.json is not a list of kinds"):
        find_samples("mvtec_loco", root, "pushpins", {})
    (root / "pushpins/defects_config.json").unlink()
    assert not any(s.saturations for s in find_samples("mvtec_loco", root, "pushpins", {}))


def test_a_region_that_the_list_does_not_name_is_told(trees):
    samples = find_samples("mvtec_loco", trees["mvtec_loco"], "pushpins", {})
    sample = next(s for s in samples if s.defect == "logical_anomalies")
    with pytest.raises(
        DataError, match=r"has the value 3, which defects_config\.json does not name"
    ):
        read_regions(sample.mask_path, sample.saturations[1:])


def test_an_empty_folder_of_masks_is_told(tmp_path):
    with pytest.raises(DataError, match="no mask"):
        read_mask(str(tmp_path), (4, 4))


def test_an_image_without_a_folder_of_masks(trees, tmp_path):
    root = shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")
    shutil.rmtree(root / "pushpins/ground_truth/logical_anomalies/001")
    with pytest.raises(
        DataError, match=r"logical_anomalies/001\.png has no mask: expected .*/001\."
    ):
        stop_at_missing_masks(find_samples("mvtec_loco", root, "pushpins", {}))


def test_visa_masks_are_small_numbers(trees):
    samples = [s for s in find_samples("visa", trees["visa"], "candle", {}) if s.label]
    assert all(read_mask(s.mask_path, (40, 48), s.mask_threshold).sum() == 100 for s in samples)


def test_visa_leaves_out_anomalous_training_images(trees):
    found = counts("visa", trees["visa"], ["candle"], protocol="2cls_fewshot")
    assert found == {("train", 0): 4, ("test", 0): 4, ("test", 1): 2}
    with pytest.raises(UsageError, match=r"no .*2cls\.csv; there is 1cls, 2cls_fewshot"):
        find_samples("visa", trees["visa"], "candle", {"protocol": "2cls"})
    with pytest.raises(UsageError, match=r"no category 'candel'.*candle"):
        find_samples("visa", trees["visa"], "candel", {})


@pytest.mark.parametrize("level", ["1cls", "."])
def test_visa_as_converted(tmp_path, level):
    for part, count in (
        ("train/good", 4),
        ("test/good", 2),
        ("test/bad", 3),
        ("ground_truth/bad", 3),
    ):
        touch(tmp_path / level / "candle" / part, count)
    assert counts("visa", tmp_path, ["candle"]) == {("train", 0): 4, ("test", 0): 2, ("test", 1): 3}


def test_ksdd_keeps_the_sides_of_an_item_together(trees):
    samples = find_samples("ksdd", trees["ksdd"], None, {"test_share": 0.4})
    items = {s.path.split("/")[-2]: set() for s in samples}
    for s in samples:
        if s.label == 0:
            items[s.path.split("/")[-2]].add(s.split)
    assert all(len(splits) == 1 for splits in items.values())
    assert sum(splits == {"test"} for splits in items.values()) == 2
    by_image = find_samples("ksdd", trees["ksdd"], None, {"by_item": False, "test_share": 0.4})
    assert Counter(s.split for s in by_image if s.label == 0)["test"] == 7  # 0.4 of 17


def test_dagm_labels_must_agree_with_the_table(trees, tmp_path):
    root = shutil.copytree(trees["dagm"], tmp_path / "dagm")
    (root / "Class1/Test/Label/0004_label.PNG").unlink()
    with pytest.raises(DataError, match=r"Labels\.txt.*do not agree on 0004"):
        find_samples("dagm", root, "Class1", {})


def test_the_private_images_of_ad2_are_passed_over(trees):
    found = counts("mvtec_ad2", trees["mvtec_ad2"], ["can"])
    assert found == {("train", 0): 5, ("validation", 0): 2, ("test", 0): 2, ("test", 1): 3}


@pytest.mark.parametrize(
    ("layout", "mask"), [("ksdd2", "train/{}_GT.png"), ("ksdd", "kos01/{}_label.bmp")]
)
def test_a_mask_that_cannot_be_read_is_a_fault_like_others(trees, tmp_path, layout, mask, capsys):
    root = shutil.copytree(trees[layout], tmp_path / layout)
    broken = sorted(root.glob(mask.format("*")))[0]
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=str(broken)):
        AnomalyDataModule(layout, str(root)).setup()
    with pytest.warns(UserWarning, match=f"1 images are left out.*{broken}"):
        AnomalyDataModule(layout, str(root), on_error="skip").setup()
    assert typed("datasets", "check", str(root)) == 1
    assert "1 images cannot be used" in capsys.readouterr().out
