"""Small trees of each layout, with the real names."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def draw_image(path: Path, rng: np.random.Generator, size=(40, 48), spot=False):
    """A textured grey-green image; with a spot, a bright square, and its mask is returned."""
    height, width = size
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    image[:, ::8, 1] += 60
    mask = np.zeros((height, width), np.uint8)
    if spot:
        top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
        mask[top : top + 10, left : left + 10] = 255
        image[mask > 0] = (250, 240, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return Image.fromarray(mask)


def mvtec_tree(root: Path, category="bottle", train=7, good=3, anomalous=4) -> Path:
    """An MVTec tree; the numbers are odd, so that two processes get unequal shares."""
    rng = np.random.default_rng(1)
    base = root / category
    for i in range(train):
        draw_image(base / f"train/good/{i:03d}.png", rng)
    for i in range(good):
        draw_image(base / f"test/good/{i:03d}.png", rng)
    for i in range(anomalous):
        mask = draw_image(base / f"test/broken/{i:03d}.png", rng, spot=True)
        (base / "ground_truth/broken").mkdir(parents=True, exist_ok=True)
        mask.save(base / f"ground_truth/broken/{i:03d}_mask.png")
    return root


def mtd_tree(root: Path) -> Path:
    """An MTD tree: grey JPEGs of several sizes, masks of the same stem, one mask of MT_Uneven empty."""
    rng = np.random.default_rng(2)
    for i in range(6):
        draw_image(root / f"MT_Free/Imgs/exp1_num_{i}.jpg", rng, (40 + i, 50))
        Image.new("L", (50, 40 + i)).save(root / f"MT_Free/Imgs/exp1_num_{i}.png")
    for kind in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        mask = draw_image(root / f"MT_{kind}/Imgs/exp2_num_{kind}.jpg", rng, spot=True)
        mask.save(root / f"MT_{kind}/Imgs/exp2_num_{kind}.png")
    draw_image(root / "MT_Uneven/Imgs/exp3_num_45042.jpg", rng)
    Image.new("L", (48, 40)).save(root / "MT_Uneven/Imgs/exp3_num_45042.png")
    return root


def folder_tree(root: Path) -> Path:
    """Folders of good and bad images, with masks."""
    rng = np.random.default_rng(3)
    for i in range(6):
        draw_image(root / f"good/part{i}.png", rng)
    for i in range(2):
        mask = draw_image(root / f"bad/dent/part{i}.png", rng, spot=True)
        (root / "masks/dent").mkdir(parents=True, exist_ok=True)
        mask.save(root / f"masks/dent/part{i}.png")
    return root


def loco_tree(root: Path) -> Path:
    """An MVTec LOCO tree: folders of masks, whose grey value names the kind of defect."""
    rng = np.random.default_rng(4)
    base = root / "pushpins"
    for split, count in (("train", 5), ("validation", 3), ("test", 3)):
        for i in range(count):
            draw_image(base / f"{split}/good/{i:03d}.png", rng)
    for kind, grey in (("logical_anomalies", 3), ("structural_anomalies", 250)):
        for i in range(2):
            masks = [draw_image(base / f"test/{kind}/{i:03d}.png", rng, spot=True), Image.new("L", (48, 40))]
            masks[1].paste(255, (40, 30, 44, 36))
            for k, mask in enumerate(masks):
                path = base / f"ground_truth/{kind}/{i:03d}/{k:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mask.point(lambda v, g=grey: g * (v > 0)).save(path)
    return root


def three_d_tree(root: Path) -> Path:
    """An MVTec 3D-AD tree: images in rgb, masks in gt, empty ones for good images too."""
    rng = np.random.default_rng(5)
    base = root / "bagel"
    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        for i in range(count):
            draw_image(base / f"{split}/good/rgb/{i:03d}.png", rng)
    for kind in ("good", "hole"):
        for i in range(3):
            mask = draw_image(base / f"test/{kind}/rgb/{i:03d}.png", rng, spot=kind != "good")
            save(mask, base / f"test/{kind}/gt/{i:03d}.png")
            (base / f"test/{kind}/xyz").mkdir(exist_ok=True)
            (base / f"test/{kind}/xyz/{i:03d}.tiff").touch()
    return root


def ad2_tree(root: Path) -> Path:
    """An MVTec AD 2 tree: one public test, two without labels."""
    rng = np.random.default_rng(6)
    base = root / "can"
    for folder, count in (("train", 5), ("validation", 2), ("test_public", 2)):
        for i in range(count):
            draw_image(base / f"{folder}/good/{i:03d}_regular.png", rng)
    for name in ("000_regular", "000_overexposed", "001_shift_1"):
        mask = draw_image(base / f"test_public/bad/{name}.png", rng, spot=True)
        save(mask, base / f"test_public/ground_truth/bad/{name}_mask.png")
    draw_image(base / "test_private/000_regular.png", rng)
    return root


def btad_tree(root: Path) -> Path:
    """A BTAD tree: of 01, .bmp images and .png masks; of 03, .bmp both."""
    rng = np.random.default_rng(7)
    for product, suffix in (("01", ".png"), ("03", ".bmp")):
        for i in range(5):
            draw_image(root / f"{product}/train/ok/{i:04d}.bmp", rng)
        for i in range(2):
            draw_image(root / f"{product}/test/ok/{i:04d}.bmp", rng)
            mask = draw_image(root / f"{product}/test/ko/{i:04d}.bmp", rng, spot=True)
            save(mask, root / f"{product}/ground_truth/ko/{i:04d}{suffix}")
    return root


def visa_tree(root: Path) -> Path:
    """A raw VisA tree with two tables; masks hold the numbers 1, 2, 3, not 255."""
    rng = np.random.default_rng(8)
    rows = []
    for i in range(8):
        draw_image(root / f"candle/Data/Images/Normal/{i:04d}.JPG", rng)
        split = "train" if i < 5 else "test"
        rows.append(["candle", split, "normal", f"candle/Data/Images/Normal/{i:04d}.JPG", ""])
    for i in range(3):
        mask = draw_image(root / f"candle/Data/Images/Anomaly/{i:03d}.JPG", rng, spot=True)
        save(mask.point(lambda v, k=i: (k + 1) * (v > 0)), root / f"candle/Data/Masks/Anomaly/{i:03d}.png")
        image, mask = f"candle/Data/Images/Anomaly/{i:03d}.JPG", f"candle/Data/Masks/Anomaly/{i:03d}.png"
        rows.append(["candle", "test", "anomaly", image, mask])
    few = [[*row[:1], "train" if n % 2 else "test", *row[2:]] for n, row in enumerate(rows)]
    for name, table in (("1cls", rows), ("2cls_fewshot", few)):
        path = root / f"split_csv/{name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *table])
    return root


def ksdd_tree(root: Path) -> Path:
    """A KolektorSDD tree: eight views of each of five commutators, the last of each second one defective."""
    rng = np.random.default_rng(9)
    for item in range(1, 6):
        for part in range(4):
            mask = draw_image(root / f"kos{item:02d}/Part{part}.jpg", rng, spot=part == 3 and item % 2 == 1)
            save(mask, root / f"kos{item:02d}/Part{part}_label.bmp")
    return root


def ksdd2_tree(root: Path) -> Path:
    """A KolektorSDD2 tree: train holds defective images too."""
    rng = np.random.default_rng(10)
    for split, first, good, bad in (("train", 10000, 5, 2), ("test", 20000, 3, 2)):
        for i in range(good + bad):
            mask = draw_image(root / f"{split}/{first + i}.png", rng, spot=i >= good)
            save(mask, root / f"{split}/{first + i}_GT.png")
    return root


def dagm_tree(root: Path) -> Path:
    """A DAGM tree: labels of defective images alone, and Labels.txt."""
    rng = np.random.default_rng(11)
    for split, good, bad in (("Train", 5, 2), ("Test", 3, 2)):
        lines = ["1"]
        for i in range(1, good + bad + 1):
            mask = draw_image(root / f"Class1/{split}/{i:04d}.PNG", rng, spot=i > good)
            if i > good:
                save(mask, root / f"Class1/{split}/Label/{i:04d}_label.PNG")
            label = f"1\t{i:04d}.PNG\t0\t{i:04d}_label.PNG" if i > good else f"0\t{i:04d}.PNG\t0\t0"
            lines.append(f"{i}\t{label}")
        (root / f"Class1/{split}/Label/Labels.txt").write_text("\n".join(lines) + "\n")
    return root


def table_tree(root: Path) -> Path:
    """A table of images of two categories, in folders of no order."""
    rng = np.random.default_rng(12)
    rows = [["path", "split", "label", "mask", "defect", "category"]]
    for i in range(7):
        draw_image(root / f"all/{i}.png", rng)
        rows.append([f"all/{i}.png", "train" if i < 5 else "test", "good", "", "", "a"])
    for i in range(2):
        save(draw_image(root / f"all/bad{i}.png", rng, spot=True), root / f"masks/bad{i}.png")
        rows.append([f"all/bad{i}.png", "test", "anomalous", f"masks/bad{i}.png", "dent", "a"])
    draw_image(root / "all/other.png", rng)
    rows.append(["all/other.png", "train", "0", "", "", "b"])
    with (root / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def save(mask: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


TREES = {
    "mvtec_loco": loco_tree, "mvtec_3d": three_d_tree, "mvtec_ad2": ad2_tree, "btad": btad_tree, "visa": visa_tree,
    "ksdd": ksdd_tree, "ksdd2": ksdd2_tree, "dagm": dagm_tree, "table": table_tree,
}  # fmt: skip
CATEGORIES = {
    "mvtec": "bottle", "mvtec_loco": "pushpins", "mvtec_3d": "bagel", "mvtec_ad2": "can", "btad": "01",
    "visa": "candle", "dagm": "Class1", "table": "a",
}  # fmt: skip
