import numpy as np
import pytest
from PIL import Image
from trees import count_by_defect, count_by_label, draw_image, draw_pair, save, touch

from lightning_ad.data.layouts import find_samples
from lightning_ad.errors import DataError


def draw_tree(root):
    """Grey JPEGs of several sizes, masks of the same stem, one mask of MT_Uneven empty."""
    rng = np.random.default_rng(2)
    for number in range(6):
        image = root / f"MT_Free/Imgs/exp1_num_{number}.jpg"
        draw_image(image, rng, (40 + number, 50))
        save(Image.new("L", (50, 40 + number)), image.with_suffix(".png"))
    for kind in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        image = root / f"MT_{kind}/Imgs/exp2_num_{kind}.jpg"
        draw_pair(image, image.with_suffix(".png"), rng)
    image = root / "MT_Uneven/Imgs/exp3_num_45042.jpg"
    save(draw_image(image, rng), image.with_suffix(".png"))


def find(root, **options):
    return find_samples("mtd", root, None, options)


def test_the_published_counts(tmp_path):
    kinds = {"Free": 952, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103}
    for kind, count in kinds.items():
        for suffix in ("jpg", "png"):
            touch(tmp_path / f"MT_{kind}/Imgs", count, kind + "_{}." + suffix)
    (tmp_path / "train.txt").write_text("\n".join(f"Free_{i}.jpg" for i in range(761)))
    found = count_by_label("mtd", tmp_path, [None], train_list=str(tmp_path / "train.txt"))
    assert found == {("train", 0): 761, ("test", 0): 191, ("test", 1): 392}


def test_with_a_list(trees, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("exp1_num_0.jpg\nexp1_num_3.jpg\n\n")
    samples = find(trees["mtd"], train_list=str(names))
    trained = {sample.path[-14:] for sample in samples if sample.split == "train"}
    assert trained == {"exp1_num_0.jpg", "exp1_num_3.jpg"}
    counts = count_by_defect(samples)
    assert counts["test", "good"] == 4
    assert counts["test", "uneven"] == 2


def test_without_a_list_the_split_is_seeded(trees):
    first, again, other = (find(trees["mtd"], seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert count_by_defect(first)["test", "good"] == 1


def test_a_list_with_unknown_names(trees, tmp_path):
    names = tmp_path / "train.txt"
    names.write_text("exp9_num_9.jpg\n")
    with pytest.raises(DataError, match=r"exp9_num_9\.jpg"):
        find(trees["mtd"], train_list=str(names))


@pytest.mark.real
def test_the_counts_of_the_real_tree(shared):
    train_list = str(shared / "data/mtd_train_filenames.txt")
    counts = count_by_defect(find(shared / "data/mtd", train_list=train_list))
    published = {"good": 191, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    expected = {("test", kind): count for kind, count in published.items()}
    assert counts == {("train", "good"): 761, **expected}
