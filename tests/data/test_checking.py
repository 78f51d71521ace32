"""A tree with planted faults: all are found, and a training that skips leaves the same out."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from paths import CONFIGS
from PIL import Image
from runs import typed
from trees import draw_image, mvtec_tree, save

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import find_samples, layout_module, layout_names
from lightning_ad.data.reading import read_image, verify
from lightning_ad.errors import DataError, UsageError

SMALL = [
    *("--data.image_size", "64", "--data.center_crop", "null", "--data.num_workers", "0"),
    *("--model.backbone", "squeezenet1_1", "--model.weights", "null"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def faulty(tmp_path):
    """An MVTec tree with 20 faults, and the images that have them."""
    root = mvtec_tree(tmp_path / "mvtec", train=16, good=10, anomalous=16)
    base, rng = root / "bottle", np.random.default_rng(5)
    train, good, bad, masks = (
        base / p for p in ("train/good", "test/good", "test/broken", "ground_truth/broken")
    )
    faults = [train / f"{i:03d}.png" for i in range(6)] + [good / f"{i:03d}.png" for i in range(4)]
    faults += [bad / f"{i:03d}.png" for i in range(10)]

    half = faults[0].read_bytes()
    faults[0].write_bytes(half[: len(half) // 2])  # truncated
    faults[1].write_bytes(b"")  # empty
    faults[2].write_text("<html>404</html>")  # no image
    Image.fromarray(rng.random((40, 48)).astype(np.float32) * 300).save(
        faults[3].with_suffix(".tiff")
    )
    faults[3].unlink()
    faults[3] = faults[3].with_suffix(".tiff")  # floats of no known range
    shutil.copy(good / "009.png", faults[4])  # tested too
    shutil.copy(bad / "015.png", faults[5])  # anomalous, in the test
    shutil.copy(bad / "014.png", faults[6])  # anomalous, in the same test
    faults[7].write_bytes(b"\x89PNG\r\n\x1a\n")  # a signature alone
    faults[8].write_bytes(faults[8].read_bytes()[:-30] + b"\0" * 30)  # its end overwritten
    faults[9].unlink()
    faults[9].symlink_to("nowhere.png")  # a dead link
    for n, i in ((10, 0), (11, 1)):
        (masks / f"{i:03d}_mask.png").unlink()  # no mask
        assert faults[n].is_file()
    save(Image.new("L", (48, 41), 255), masks / "002_mask.png")  # of another size
    save(Image.new("L", (40, 48), 255), masks / "003_mask.png")  # turned by 90 degrees
    # Nearly black, and of a lossy format: noise, or numbers of kinds? Nobody can tell.
    Image.new("L", (48, 40), 1).save(masks / "004_mask.png", "JPEG")
    (masks / "005_mask.png").write_bytes(b"")  # empty
    (masks / "006_mask.png").write_bytes((masks / "007_mask.png").read_bytes()[:60])  # truncated
    faults[17].write_bytes(faults[17].read_bytes()[:100])  # the image truncated, its mask whole
    faults[18].write_text("a,b\n1,2\n")  # no image
    draw_image(faults[19], rng, (44, 48))  # larger than its mask
    # Copies of faults 5 and 6 are doubtful as well: which label is right, nobody can tell.
    return root, {str(f) for f in faults} | {str(bad / "015.png"), str(bad / "014.png")}


def listed(path):
    with path.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_the_command_finds_all_planted_faults(faulty, tmp_path, capsys):
    root, faults = faulty
    table = tmp_path / "faults.csv"
    assert typed("datasets", "check", str(root), "--layout", "mvtec", "--file", str(table)) == 1
    printed = capsys.readouterr().out
    assert set(listed(table)) == faults
    assert len(faults) == 22
    assert "22 images cannot be used (--data.on_error skip leaves them out)" in printed
    assert "bottle: train good 16, test good 10, test broken 16" in printed
    reasons = {
        "train/good/000.png": "cannot read the image",
        "train/good/004.png": "the same file is tested, as",
        "train/good/005.png": "among the good and the anomalous",
        "test/broken/000.png": "it has no mask: expected",
        "test/broken/002.png": "they must be of one size",
        "test/broken/004.png": "none above 127",
    }
    for path, words in reasons.items():
        assert words in listed(table)[str(root / "bottle" / path)]


def test_a_training_that_skips_leaves_the_same_ones_out(faulty, tmp_path, capsys):
    root, faults = faulty
    flags = [
        "--config",
        f"{CONFIGS}/patchcore.yaml",
        "--config",
        f"{CONFIGS}/data/mvtec.yaml",
        "--data.root",
        str(root),
    ]
    flags += ["--data.category", "bottle", *SMALL, "--output", str(tmp_path / "runs")]
    with pytest.raises(DataError, match=r"broken/000\.png has no mask"):
        train(flags)
    assert not (tmp_path / "runs").exists()
    with pytest.warns(UserWarning, match="22 images are left out; the first is"):
        folder = train([*flags, "--data.on_error", "skip"])
    assert set(listed(folder.skipped)) == faults
    printed = capsys.readouterr().out
    assert f"Images that were left out: {folder.skipped}" in printed
    assert "10 training images, 6 good and 4 anomalous test images" in printed
    again = evaluate([str(folder.path), "--trainer.enable_progress_bar", "false"])
    assert set(listed(again.skipped)) == faults


def test_a_tree_without_faults(trees, capsys):
    assert typed("datasets", "check", str(trees["mvtec"])) == 0
    printed = capsys.readouterr().out
    assert "by the layout 'mvtec'" in printed
    assert "sizes: 48 x 40 px (14)" in printed
    assert "0 images cannot be used" in printed


def test_what_is_odd_but_usable(trees, tmp_path, capsys):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    shutil.copy(root / "bottle/train/good/000.png", root / "bottle/train/good/copy.png")
    save(Image.new("L", (48, 40)), root / "bottle/ground_truth/broken/000_mask.png")
    save(Image.new("L", (48, 40)), root / "bottle/ground_truth/broken/999_mask.png")
    (root / "bottle/test/good/notes.txt").write_text("x")
    assert typed("datasets", "check", str(root)) == 0
    printed = capsys.readouterr().out
    assert "1 files are in one split more than once" in printed
    assert "1 masks of anomalous images are empty" in printed
    assert "1 files .png that the layout does not use" in printed
    assert "999_mask.png" in printed
    assert "notes.txt" in printed


def test_a_tree_of_no_layout(tmp_path):
    with pytest.raises(UsageError, match="no layout fits"):
        typed("datasets", "check", str(tmp_path))
    with pytest.raises(DataError, match="no folder"):
        typed("datasets", "check", str(tmp_path / "nowhere"))


def test_all_layouts_are_listed(capsys):
    assert typed("datasets") == 0
    printed = capsys.readouterr().out
    for layout in layout_names():
        assert f"{layout}   " in printed
        assert layout_module(layout).LICENCE in printed
        assert layout_module(layout).SOURCE in printed
    assert "ROOT/<category>/train/good/000.png" in printed


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_that_is_not_whole_stops_before_the_start(trees, tmp_path, suffix):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    part = root / "bottle/test/good/000.png"
    if suffix == "jpg":
        Image.open(part).resize((300, 300)).save(part.with_suffix(".jpg"))
        part.unlink()
        part = part.with_suffix(".jpg")
    part.write_bytes(part.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"cannot read the image {part}: .*on_error skip"):
        AnomalyDataModule("mvtec", str(root), "bottle").setup("fit")


def test_the_same_file_for_two_ends_stops_before_the_start(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    shutil.copy(root / "bottle/test/good/001.png", root / "bottle/train/good/000.png")
    with pytest.raises(
        DataError, match=r"train/good/000\.png: the same file is tested, as .*test/good/001\.png"
    ):
        AnomalyDataModule("mvtec", str(root), "bottle").setup()


def test_a_training_image_that_validates_is_a_fault(trees, tmp_path, capsys):
    root = shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")
    shutil.copy(root / "pushpins/validation/good/001.png", root / "pushpins/train/good/000.png")
    assert typed("datasets", "check", str(root)) == 1
    assert "the same file is held out for validation" in capsys.readouterr().out


def test_a_category_that_is_broken_does_not_hide_the_others(trees, tmp_path, capsys):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    shutil.copytree(root / "bottle", root / "cable")
    shutil.rmtree(root / "bottle/test")
    assert typed("datasets", "check", str(root), "--layout", "mvtec") == 1
    printed = capsys.readouterr().out
    assert "bottle: cannot be used: there is no folder" in printed
    assert "cable: train good 7" in printed
    assert "1 of 2 categories cannot be used" in printed


def test_a_mask_of_another_size_stops_before_the_start(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    save(Image.new("L", (40, 48), 255), root / "bottle/ground_truth/broken/001_mask.png")
    with pytest.raises(
        DataError,
        match=r"001\.png: the mask .*001_mask\.png is 40x48 px, its image 48x40 px.*on_error",
    ):
        AnomalyDataModule("mvtec", str(root), "bottle").setup("fit")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("turn", [3, 6])
def test_a_photograph_that_lies_on_its_side_fits_its_mask(trees, tmp_path, turn, suffix):
    root = shutil.copytree(trees["folder"], tmp_path / "parts")
    (part,) = (root / "bad/dent").glob("part0.png")
    image = Image.open(part)
    raw = image.transpose(Image.Transpose.ROTATE_90 if turn == 6 else Image.Transpose.ROTATE_180)
    exif = Image.Exif()
    exif[274] = turn
    part.unlink()
    part = part.with_suffix(f".{suffix}")
    raw.save(part, exif=exif)
    assert (
        verify(str(part)) == tuple(read_image(str(part)).shape[1:]) == (image.height, image.width)
    )
    AnomalyDataModule("folder", str(root)).setup()


def test_what_keeps_a_tree_from_its_layout_is_told(trees, tmp_path):
    root = shutil.copytree(trees["folder"], tmp_path / "parts")
    Image.open(root / "masks/dent/part0.png").save(root / "masks/dent/part0.bmp")
    with pytest.raises(UsageError, match=r"no layout fits(.|\n)*folder: .*have one name"):
        typed("datasets", "check", str(root))


def test_a_photograph_with_much_behind_its_end_is_whole(trees, tmp_path):
    root = shutil.copytree(trees["folder"], tmp_path / "parts")
    part = root / "good/film.jpg"
    Image.open(root / "good/part0.png").convert("RGB").save(part)
    part.write_bytes(part.read_bytes() + b"\0" * 200_000)
    AnomalyDataModule("folder", str(root)).setup()


def test_an_evaluation_wants_no_training_image(trees, tmp_path):
    root = shutil.copytree(trees["table"], tmp_path / "table")
    for sample in find_samples("table", root, "a", {}):
        if sample.split == "train":
            Path(sample.path).unlink()
    AnomalyDataModule("table", str(root), "a").setup("test")
    with pytest.raises(DataError, match="is not there"):
        AnomalyDataModule("table", str(root), "a").setup("fit")
