"""ROOT/{train,test}/10000.png
ROOT/{train,test}/10000_GT.png                       (every image has one; all zero if it is good)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import images, partners, refuse_category
from lightning_ad.data.reading import is_blank
from lightning_ad.data.sample import GOOD, Sample, Split

SOURCE = "vicos.si/resources/kolektorsdd2"
LICENCE = "CC BY-NC-SA 4.0"
LABELS_FROM_MASKS = True  # an image whose mask is not blank is defective


def find(root: Path, category: str | None) -> list[Sample]:
    """KolektorSDD2 (Božič et al., CompInd 2021): 2,085 good training and 1,004 test images.

    894 of the test images are good, 110 defective. The 246 defective training images are left out.
    All masks are read, to tell which images are defective. Files that are not named by a number are
    left out: the archive has `10301 (copy).png`.

    Raises:
        UsageError: if a category is asked for.
        DataError: if a folder is missing.
    """
    refuse_category("ksdd2", category)
    samples: list[Sample] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        parts = [image for image in images(root / split) if image.stem.isdigit()]
        masks = partners(parts, root / split, ("_GT",))
        for image, mask in zip(parts, masks, strict=True):
            blank = is_blank(str(mask))
            if blank:
                samples.append(Sample(str(image), split))
            elif split == "test":
                samples.append(Sample(str(image), split, "defect", str(mask), 0))
            elif blank is None:  # its mask cannot be read, which is reported with others
                samples.append(Sample(str(image), split, GOOD, str(mask), 0))
    return samples
