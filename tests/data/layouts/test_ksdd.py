from collections import Counter

import numpy as np
from PIL import Image
from trees import count_by_label, draw_image, save, touch

from lightning_ad.data.layouts import find_samples


def draw_tree(root):
    """Four views of each of five commutators, the last of each second one defective."""
    rng = np.random.default_rng(9)
    for item in range(1, 6):
        for part in range(4):
            image = root / f"kos{item:02d}/Part{part}.jpg"
            mask = draw_image(image, rng, spot=part == 3 and item % 2 == 1)
            save(mask, root / f"kos{item:02d}/Part{part}_label.bmp")


def item_of(sample):
    return sample.path.split("/")[-2]


def test_the_published_counts(tmp_path):
    for number in range(399):
        item = tmp_path / f"kos{number // 8 + 1:02d}"
        touch(item, 1, f"Part{number % 8}.jpg")
        label = Image.new("L", (4, 4), 255 if number < 52 else 0)
        save(label, item / f"Part{number % 8}_label.bmp")
    found = count_by_label("ksdd", tmp_path, [None])
    assert found["test", 1] == 52
    assert found["train", 0] + found["test", 0] == 347


def test_the_sides_of_an_item_stay_together(trees):
    samples = find_samples("ksdd", trees["ksdd"], None, {"test_share": 0.4})
    splits = {item_of(sample): set() for sample in samples}
    for sample in samples:
        if sample.label == 0:
            splits[item_of(sample)].add(sample.split)
    assert sorted(map(sorted, splits.values())) == [["test"]] * 2 + [["train"]] * 3


def test_images_may_be_drawn_instead_of_items(trees):
    options = {"by_item": False, "test_share": 0.4}
    samples = find_samples("ksdd", trees["ksdd"], None, options)
    good = Counter(sample.split for sample in samples if sample.label == 0)
    assert good["test"] == 7  # 0.4 of 17
