import numpy as np
from trees import count_by_label, draw_image, draw_pair

CATEGORY = "can"


def draw_tree(root):
    """One public test, and a private one without labels."""
    rng = np.random.default_rng(6)
    base = root / CATEGORY
    for folder, count in (("train", 5), ("validation", 2), ("test_public", 2)):
        for number in range(count):
            draw_image(base / f"{folder}/good/{number:03d}_regular.png", rng)
    for name in ("000_regular", "000_overexposed", "001_shift_1"):
        mask = base / f"test_public/ground_truth/bad/{name}_mask.png"
        draw_pair(base / f"test_public/bad/{name}.png", mask, rng)
    draw_image(base / "test_private/000_regular.png", rng)


def test_private_images_are_left_out(trees):
    found = count_by_label("mvtec_ad2", trees["mvtec_ad2"], [CATEGORY])
    assert found == {("train", 0): 5, ("validation", 0): 2, ("test", 0): 2, ("test", 1): 3}
