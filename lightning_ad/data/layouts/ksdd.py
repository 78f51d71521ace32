"""ROOT/kos{01..50}/Part{0..7}.jpg
ROOT/kos{01..50}/Part{0..7}_label.bmp                (every image has one; all zero if it is good)
"""

from collections.abc import Sequence
from pathlib import Path

from lightning_ad.data.layouts._files import (
    images,
    partners,
    refuse_category,
    seeded_split,
    subfolders,
)
from lightning_ad.data.reading import is_blank
from lightning_ad.data.sample import Sample
from lightning_ad.errors import MissingFolderError

SOURCE = "vicos.si/resources/kolektorsdd"
LICENCE = "CC BY-NC-SA 4.0"
LABELS_FROM_MASKS = True  # an image whose mask is not blank is defective


def find(
    root: Path,
    category: str | None,
    *,
    by_item: bool = True,
    test_share: float = 0.2,
    seed: int = 0,
) -> list[Sample]:
    """KolektorSDD (Tabernik et al., JIM 2020): 399 images of 50 commutators, 52 of them defective.

    There is no published split for learning from good images alone. All defective images are test
    images, and of the good ones those of `test_share` of the commutators. `by_item: false` draws
    images instead, which leaves sides of one commutator in both, as the split in common use does.

    Raises:
        UsageError: if a category is asked for.
        DataError: if a folder is missing.
    """
    refuse_category("ksdd", category)
    items = [folder for folder in subfolders(root) if folder.name.startswith("kos")]
    if not items:
        raise MissingFolderError(f"there is no folder kos01 in {root}")
    good = []
    bad = []
    for image, label in _labelled(items):
        if is_blank(str(label)):
            good.append(image)
        else:
            bad.append(Sample(str(image), "test", "defect", str(label), 0))
    if by_item:
        held_items = set(seeded_split(items, test_share, seed)[1])
        tested = {image for image in good if image.parent in held_items}
    else:
        tested = set(seeded_split(good, test_share, seed)[1])
    samples = []
    for image in good:
        split = "test" if image in tested else "train"
        samples.append(Sample(str(image), split))
    return samples + bad


def _labelled(items: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Returns all images with their labels."""
    found = []
    for item in items:
        parts = [image for image in images(item) if not image.stem.endswith("_label")]
        for part in parts:
            (label,) = partners([part], item, ("_label",))
            found.append((part, label))
    return found
