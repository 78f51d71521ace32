"""ROOT/<good>/*.png              good parts, split into training and test unless good_test is given
ROOT/<bad>/[<defect>/**/]*.png  anomalous parts (none yet: --data.layout_options.bad null)
ROOT/<masks>/[<defect>/**/]*.png  their masks, by stem (optional)
"""

from collections.abc import Sequence
from pathlib import Path

from lightning_ad.data.layouts._files import (
    anomalous_samples,
    images,
    partners,
    seeded_split,
)
from lightning_ad.data.listing import folders_below
from lightning_ad.data.sample import GOOD, Sample
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.paths import existing, places_of

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

    `bad` holds images, or one folder for each kind of defect; `bad: null` if there are none.
    `masks` mirrors it, files paired by stem, with or without `_mask`; a mask is true above
    `mask_threshold`. If `masks` is not given, the folder `masks` is taken if it is there; without
    masks there are no pixel metrics. Without `good_test`, `test_share` of the good images, drawn
    with `seed`, are test images (1 for a set that is only evaluated).

    Raises:
        UsageError: if a category is asked for.
        DataError: if a folder is missing.
    """
    if category is not None:
        raise UsageError(f"the layout 'folder' has no categories; put '{category}' into data.root")
    train, test = _good_parts(root, good, good_test, test_share, seed)
    samples = [Sample(str(image), "train") for image in train]
    samples += [Sample(str(image), "test") for image in test]
    if bad is None:
        return samples
    if masks is None and (root / "masks").is_dir():
        masks = "masks"
    mask_folder = None if masks is None else root / masks
    good_folders = [existing(root / name) for name in (good, good_test) if name is not None]
    return samples + _bad_parts(existing(root / bad), good_folders, mask_folder, mask_threshold)


def _bad_parts(
    bad: Path, good: Sequence[Path], masks: Path | None, mask_threshold: int
) -> list[Sample]:
    samples: list[Sample] = []
    for folder in _folders_of_bad(bad, good):
        inner = folder.relative_to(bad)
        defect = inner.parts[0] if inner.parts else "anomalous"
        if defect == GOOD:
            raise DataError(
                f"{folder} lies among the bad images; give it as good_test, or rename it"
            )
        found = images(folder)
        if masks is None:
            samples += [Sample(str(image), "test", defect) for image in found]
        else:
            paired = partners(found, masks / inner, ("", "_mask"))
            samples += anomalous_samples(found, paired, defect, mask_threshold=mask_threshold)
    return samples


def _good_parts(
    root: Path, good: str, good_test: str | None, test_share: float, seed: int
) -> tuple[list[Path], list[Path]]:
    """Returns good images for training and for the test."""
    found = images(existing(root / good), recursive=True)
    if good_test is not None:
        test = images(existing(root / good_test), recursive=True)
        tested = {*places_of(map(str, test))}
        places = places_of(map(str, found))
        train = [image for image, place in zip(found, places, strict=True) if place not in tested]
        return train, test
    if not found:
        return [], []
    return seeded_split(found, test_share, seed)


def _folders_of_bad(bad: Path, good: Sequence[Path]) -> list[Path]:
    """Returns the folder of bad images and those in it, without those of good images."""
    if not bad.is_dir():
        return [bad]
    top = bad.resolve()
    inside = [place.resolve() for place in good if top in place.resolve().parents]
    found = []
    for folder in folders_below(bad):
        place = folder.resolve()
        if not any(place.is_relative_to(other) for other in inside):
            found.append(folder)
    return found
