"""ROOT/MT_Free/Imgs/exp1_num_3.jpg                       (good)
ROOT/MT_{Blowhole,Break,Crack,Fray,Uneven}/Imgs/*.jpg   (defective)
ROOT/MT_*/Imgs/*.png                                    (masks, same stem)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import (
    anomalous_samples,
    images,
    refuse_category,
    seeded_split,
)
from lightning_ad.data.sample import Sample
from lightning_ad.data.tables import read_text
from lightning_ad.errors import DataError
from lightning_ad.system.names import same_letters
from lightning_ad.system.paths import existing

DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
SOURCE = "github.com/abin24/Magnetic-tile-defect-datasets."
LICENCE = "none named; cite Huang et al. 2018"


def find(
    root: Path,
    category: str | None,
    *,
    train_list: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> list[Sample]:
    """Magnetic tile defects (Huang et al. 2018): 952 good images, 392 defective ones.

    `train_list` is a file with one image name a line: these are for training, all others for the
    test. Papers use the list published with DifferNet (761 names). Without it, `test_share` of the
    good images, drawn with `seed`, are test images. Masks are anti-aliased and are cut at 127; four
    masks of MT_Uneven are empty, which leaves those images without pixel truth.

    Raises:
        UsageError: if a category is asked for.
        DataError: if a folder is missing, or an image that the list names.
    """
    refuse_category("mtd", category)
    free = _images(root, "Free")
    if train_list is None:
        train, test = seeded_split(free, test_share, seed)
    else:
        train, test = _listed_split(free, Path(train_list))
    samples = [Sample(str(image), "train") for image in train]
    samples += [Sample(str(image), "test") for image in test]
    for defect in DEFECTS:
        bad = _images(root, defect)
        masks = [existing(image.with_suffix(".png")) for image in bad]
        samples += anomalous_samples(bad, masks, defect.lower(), mask_threshold=127)
    return samples


def _listed_split(free: list[Path], train_list: Path) -> tuple[list[Path], list[Path]]:
    """Splits good images into those that a list names, and the others."""
    names = _names(train_list)
    missing = sorted(names - {same_letters(image.name) for image in free})
    if missing:
        raise DataError(
            f"{train_list} names {missing[0]} and {len(missing) - 1} more that are not in "
            f"{free[0].parent}"
        )
    train = [image for image in free if same_letters(image.name) in names]
    test = [image for image in free if same_letters(image.name) not in names]
    return train, test


def _images(root: Path, name: str) -> list[Path]:
    folder = root / f"MT_{name}" / "Imgs"
    found = []
    if folder.is_dir():
        found = [image for image in images(folder) if image.suffix == ".jpg"]
    if not found:
        raise DataError(f"no *.jpg in {folder}; is data.root the folder that holds MT_Free?")
    return found


def _names(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"there is no training list {path} (data.layout_options.train_list)")
    lines = read_text(path).splitlines()
    return {same_letters(line.strip()) for line in lines if line.strip()}
