import numpy as np
from PIL import Image
from trees import count_by_label, draw_image, save, touch


def draw_tree(root):
    """The training images hold defective ones too."""
    rng = np.random.default_rng(10)
    for split, first, good, bad in (("train", 10000, 5, 2), ("test", 20000, 3, 2)):
        for number in range(good + bad):
            mask = draw_image(root / f"{split}/{first + number}.png", rng, spot=number >= good)
            save(mask, root / f"{split}/{first + number}_GT.png")


def test_the_published_counts(tmp_path):
    for split, good, bad in (("train", 2085, 246), ("test", 894, 110)):
        touch(tmp_path / split, good + bad, "{}.png")
        for number in range(good + bad):
            mask = Image.new("L", (4, 4), 255 if number >= good else 0)
            save(mask, tmp_path / split / f"{number}_GT.png")
    for name in ("10301 (copy).png", "10301_GT (copy).png"):  # the archive has both
        save(Image.new("L", (4, 4), 255), tmp_path / "train" / name)
    found = count_by_label("ksdd2", tmp_path, [None])
    assert found == {("train", 0): 2085, ("test", 0): 894, ("test", 1): 110}
