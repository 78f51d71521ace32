"""ROOT/{train,test}/10000.png
ROOT/{train,test}/10000_GT.png                       (every image has one; all zero where it is good)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import images, partners
from lightning_ad.data.reading import is_blank
from lightning_ad.data.sample import GOOD, Sample, Split
from lightning_ad.errors import UsageError

SOURCE = "vicos.si/resources/kolektorsdd2"
LICENCE = "CC BY-NC-SA 4.0"
LABELS_FROM_MASKS = True  # an image whose mask is not blank is defective


def find(root: Path, category: str | None) -> list[Sample]:
    """KolektorSDD2 (Božič et al., CompInd 2021): 2,085 good training images, 894 good and 110 defective for testing.

    The 246 defective training images are left out. All masks are read, to tell which images are defective. Files that
    are not named by a number are passed over: the archive has `10301 (copy).png`.

    Raises:
        UsageError: where a category is asked for.
        DataError: for a missing folder.
    """
    if category is not None:
        raise UsageError(
            f"the layout 'ksdd2' has no categories; leave data.category out (it is '{category}')"
        )
    samples: list[Sample] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        parts = [p for p in images(root / split) if p.stem.isdigit()]
        for image, mask in zip(parts, partners(parts, root / split, ("_GT",)), strict=True):
            blank = is_blank(str(mask))
            if blank:
                samples.append(Sample(str(image), split))
            elif split == "test":
                samples.append(Sample(str(image), split, "defect", str(mask), 0))
            elif blank is None:  # with its mask, which will be found unreadable
                samples.append(Sample(str(image), split, GOOD, str(mask), 0))
    return samples
