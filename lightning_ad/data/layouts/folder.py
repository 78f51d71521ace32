"""ROOT/<good>/*.png              good parts, split into training and test unless good_test is given
ROOT/<bad>/[<defect>/**/]*.png  anomalous parts (none yet: --data.layout_options.bad null)
ROOT/<masks>/[<defect>/**/]*.png  their masks, by stem (optional)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import images, partners, seeded_split, subfolders
from lightning_ad.data.sample import GOOD, Sample
from lightning_ad.errors import DataError, UsageError

SOURCE = "your own images"
LICENCE = "yours"


def find(
    root: Path,
    category: str | None,
    *,
    good: str = "good",
    bad: str | None = "bad",
    masks: str | None = None,
    good_test: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    mask_threshold: int = 127,
) -> list[Sample]:
    """Any folders of good and bad images; all names are relative to the root.

    `bad` holds images, or one folder for each kind of defect; `bad: null` where there is none. `masks` mirrors
    it, files paired by stem, with or without `_mask`; a mask is true above `mask_threshold`. Where `masks` is not
    given, the folder `masks` is taken if it is there; without masks there are no pixel metrics. Without `good_test`,
    `test_share` of the good images, drawn with `seed`, test (1 for a set that is only to be evaluated).

    Raises:
        UsageError: where a category is asked for.
        DataError: for a missing folder.
    """
    if category is not None:
        raise UsageError(f"the layout 'folder' has no categories; put '{category}' into data.root")
    train = images(root / good, recursive=True)
    if good_test is None:
        train, test = seeded_split(train, test_share, seed) if train else ([], [])
    else:
        test = images(root / good_test, recursive=True)
        train = [p for p in train if p not in set(test)]
    if masks is None and (root / "masks").is_dir():
        masks = "masks"
    samples = [Sample(str(p), "train") for p in train] + [Sample(str(p), "test") for p in test]
    if bad is None:
        return samples
    for folder in _tree(root / bad):
        defect = next(iter(folder.relative_to(root / bad).parts), "anomalous")
        if defect == GOOD:
            raise DataError(
                f"{folder} lies among the bad images; give it as good_test, or rename it"
            )
        found = images(folder)
        if masks is None:
            samples += [Sample(str(p), "test", defect) for p in found]
        else:
            mirrored = root / masks / folder.relative_to(root / bad)
            pairs = zip(found, partners(found, mirrored, ("", "_mask")), strict=True)
            samples += [Sample(str(p), "test", defect, str(m), mask_threshold) for p, m in pairs]
    return samples


def _tree(folder: Path, links: bool = True) -> list[Path]:
    """A folder, and all that lie in it, however deep; of links to folders, those in the folder itself."""
    inner = (
        [p for p in subfolders(folder) if links or not p.is_symlink()] if folder.is_dir() else []
    )
    return [folder, *(deep for one in inner for deep in _tree(one, links=False))]
