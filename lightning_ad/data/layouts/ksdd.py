"""ROOT/kos{01..50}/Part{0..7}.jpg
ROOT/kos{01..50}/Part{0..7}_label.bmp                (every image has one; all zero where it is good)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import images, partners, seeded_split, subfolders
from lightning_ad.data.reading import is_blank
from lightning_ad.data.sample import Sample
from lightning_ad.errors import MissingFolderError, UsageError

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

    There is no published split for learning from good images alone. All defective images test. Of the good ones,
    those of `test_share` of the commutators test; `by_item: false` draws images instead, which leaves sides of one
    commutator in both, as the split in common use does.

    Raises:
        UsageError: where a category is asked for.
        DataError: for a missing folder.
    """
    if category is not None:
        raise UsageError(
            f"the layout 'ksdd' has no categories; leave data.category out (it is '{category}')"
        )
    items = [folder for folder in subfolders(root) if folder.name.startswith("kos")]
    if not items:
        raise MissingFolderError(f"there is no folder kos01 in {root}")
    parts = [p for folder in items for p in images(folder) if not p.stem.endswith("_label")]
    labels = [m for p in parts for m in partners([p], p.parent, ("_label",))]
    good = [p for p, m in zip(parts, labels, strict=True) if is_blank(str(m))]
    units = items if by_item else good
    held = {*seeded_split(units, test_share, seed)[1]}
    samples = [
        Sample(str(p), "test" if (p.parent if by_item else p) in held else "train") for p in good
    ]
    known = {*good}
    pairs = zip(parts, labels, strict=True)
    return samples + [
        Sample(str(p), "test", "defect", str(m), 0) for p, m in pairs if p not in known
    ]
