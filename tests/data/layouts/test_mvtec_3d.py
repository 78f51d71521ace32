import numpy as np
from trees import count_by_label, draw_image, save, touch

CATEGORY = "bagel"
PUBLISHED = {  # training, validation, good, anomalous
    "bagel": (244, 22, 22, 88),
    "cable_gland": (223, 23, 21, 87),
    "carrot": (286, 29, 27, 132),
    "cookie": (210, 22, 28, 103),
    "dowel": (288, 34, 26, 104),
    "foam": (236, 27, 20, 80),
    "peach": (361, 42, 26, 106),
    "potato": (300, 33, 22, 92),
    "rope": (298, 33, 32, 69),
    "tire": (210, 29, 25, 87),
}


def draw_tree(root):
    """Images in rgb, masks in gt, empty ones for good images too."""
    rng = np.random.default_rng(5)
    base = root / CATEGORY
    for split, count in (("train", 5), ("validation", 2)):
        for number in range(count):
            draw_image(base / f"{split}/good/rgb/{number:03d}.png", rng)
    for kind in ("good", "hole"):
        for number in range(3):
            image = base / f"test/{kind}/rgb/{number:03d}.png"
            save(
                draw_image(image, rng, spot=kind != "good"),
                base / f"test/{kind}/gt/{number:03d}.png",
            )
        touch(base / f"test/{kind}/xyz", 3, "{:03d}.tiff")


def test_the_published_counts(tmp_path):
    for category, (train, validation, good, bad) in PUBLISHED.items():
        for split, count in (("train", train), ("validation", validation), ("test", good)):
            touch(tmp_path / category / split / "good/rgb", count)
        touch(tmp_path / category / "test/good/gt", good)
        touch(tmp_path / category / "test/hole/rgb", bad)
        touch(tmp_path / category / "test/hole/gt", bad)
    found = count_by_label("mvtec_3d", tmp_path, PUBLISHED)
    assert found == {("train", 0): 2656, ("validation", 0): 294, ("test", 0): 249, ("test", 1): 948}
