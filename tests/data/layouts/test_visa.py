import csv

import numpy as np
import pytest
from trees import count_by_label, draw_image, draw_pair, touch

from lightning_ad.data.layouts import find_samples
from lightning_ad.data.reading import read_mask
from lightning_ad.errors import UsageError

CATEGORY = "candle"
COLUMNS = ["object", "split", "label", "image", "mask"]
PUBLISHED = {  # training and good test images of the table 1cls; 100 are anomalous in each
    "candle": (900, 100),
    "capsules": (542, 60),
    "cashew": (450, 50),
    "chewinggum": (453, 50),
    "fryum": (450, 50),
    "macaroni1": (900, 100),
    "macaroni2": (900, 100),
    "pcb1": (904, 100),
    "pcb2": (901, 100),
    "pcb3": (905, 101),
    "pcb4": (904, 101),
    "pipe_fryum": (450, 50),
}


def draw_tree(root):
    """A raw tree with two tables; masks hold the numbers 1, 2, 3, not 255."""
    rng = np.random.default_rng(8)
    rows = []
    for number in range(8):
        image = f"candle/Data/Images/Normal/{number:04d}.JPG"
        draw_image(root / image, rng)
        rows.append(["candle", "train" if number < 5 else "test", "normal", image, ""])
    for number in range(3):
        image = f"candle/Data/Images/Anomaly/{number:03d}.JPG"
        mask = f"candle/Data/Masks/Anomaly/{number:03d}.png"
        draw_pair(root / image, root / mask, rng, value=number + 1)
        rows.append(["candle", "test", "anomaly", image, mask])
    few = [[row[0], "train" if n % 2 else "test", *row[2:]] for n, row in enumerate(rows)]
    write_table(root, "1cls", rows)
    write_table(root, "2cls_fewshot", few)


def write_table(root, name, rows):
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / f"split_csv/{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def test_the_published_counts(tmp_path):
    rows = []
    for name, (train, good) in PUBLISHED.items():
        (tmp_path / name).mkdir()
        rows += [[name, "train", "normal", f"{name}/n{i}.JPG", ""] for i in range(train)]
        rows += [[name, "test", "normal", f"{name}/t{i}.JPG", ""] for i in range(good)]
        for i in range(100):
            rows.append([name, "test", "anomaly", f"{name}/a{i}.JPG", f"{name}/a{i}.png"])
    write_table(tmp_path, "1cls", rows)
    found = count_by_label("visa", tmp_path, PUBLISHED)
    assert found == {("train", 0): 8659, ("test", 0): 962, ("test", 1): 1200}
    assert found["train", 0] + found["test", 0] == 9621


def test_masks_are_small_numbers(trees):
    for sample in find_samples("visa", trees["visa"], CATEGORY, {}):
        if sample.label:
            assert read_mask(sample.mask_path, (40, 48), sample.mask_threshold).sum() == 100


def test_anomalous_training_images_are_left_out(trees):
    found = count_by_label("visa", trees["visa"], [CATEGORY], protocol="2cls_fewshot")
    assert found == {("train", 0): 4, ("test", 0): 4, ("test", 1): 2}
    with pytest.raises(UsageError, match=r"no .*2cls\.csv; there is 1cls, 2cls_fewshot"):
        find_samples("visa", trees["visa"], CATEGORY, {"protocol": "2cls"})
    with pytest.raises(UsageError, match=r"no category 'candel'.*candle"):
        find_samples("visa", trees["visa"], "candel", {})


@pytest.mark.parametrize("level", ["1cls", "."])
def test_a_converted_tree(tmp_path, level):
    base = tmp_path / level / "candle"
    touch(base / "train/good", 4)
    touch(base / "test/good", 2)
    touch(base / "test/bad", 3)
    touch(base / "ground_truth/bad", 3)
    found = count_by_label("visa", tmp_path, [CATEGORY])
    assert found == {("train", 0): 4, ("test", 0): 2, ("test", 1): 3}
