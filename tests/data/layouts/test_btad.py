import numpy as np
from trees import count_by_label, draw_image, draw_pair, touch

CATEGORY = "01"
PUBLISHED = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}


def draw_tree(root):
    """Of 01, .bmp images and .png masks; of 03, .bmp both."""
    rng = np.random.default_rng(7)
    for product, suffix in (("01", ".png"), ("03", ".bmp")):
        for number in range(5):
            draw_image(root / f"{product}/train/ok/{number:04d}.bmp", rng)
        for number in range(2):
            draw_image(root / f"{product}/test/ok/{number:04d}.bmp", rng)
            mask = root / f"{product}/ground_truth/ko/{number:04d}{suffix}"
            draw_pair(root / f"{product}/test/ko/{number:04d}.bmp", mask, rng)


def test_the_published_counts(tmp_path):
    for product, (train, good, bad) in PUBLISHED.items():
        image = "{:04d}.png" if product == "02" else "{:04d}.bmp"
        mask = "{:04d}.bmp" if product == "03" else "{:04d}.png"
        touch(tmp_path / product / "train/ok", train, image)
        touch(tmp_path / product / "test/ok", good, image)
        touch(tmp_path / product / "test/ko", bad, image)
        touch(tmp_path / product / "ground_truth/ko", bad, mask)
    found = count_by_label("btad", tmp_path, PUBLISHED)
    assert found == {("train", 0): 1799, ("test", 0): 451, ("test", 1): 290}
