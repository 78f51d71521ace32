"""ROOT/MT_Free/Imgs/exp1_num_3.jpg                       (good)
ROOT/MT_{Blowhole,Break,Crack,Fray,Uneven}/Imgs/*.jpg   (defective)
ROOT/MT_*/Imgs/*.png                                    (masks, same stem)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import seeded_split
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError

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
    """Magnetic tile defects (Huang et al. 2018) in their own tree: 952 good images, 392 defective ones.

    `train_list` is a file with one image name a line: those train, all others test. The list published with
    DifferNet (761 names) is the one that papers use. Without it, `test_share` of the good images, drawn with
    `seed`, test. Masks are anti-aliased and are cut at 127; four masks of MT_Uneven are empty, which leaves
    those images without pixel truth.

    Raises:
        UsageError: where a category is asked for.
        DataError: for a missing folder, or a name of the list that is not there.
    """
    if category is not None:
        raise UsageError(
            f"the layout 'mtd' has no categories; leave data.category out (it is '{category}')"
        )
    free = _images(root, "Free")
    if train_list is None:
        train, test = seeded_split(free, test_share, seed)
    else:
        names = _names(Path(train_list))
        if missing := sorted(names - {p.name for p in free}):
            raise DataError(
                f"{train_list} names {missing[0]} and {len(missing) - 1} more that are not in {free[0].parent}"
            )
        train = [p for p in free if p.name in names]
        test = [p for p in free if p.name not in names]
    samples = [Sample(str(p), "train") for p in train] + [Sample(str(p), "test") for p in test]
    for defect in DEFECTS:
        for image in _images(root, defect):
            samples.append(
                Sample(str(image), "test", defect.lower(), str(image.with_suffix(".png")))
            )
    return samples


def _images(root: Path, name: str) -> list[Path]:
    found = sorted((root / f"MT_{name}" / "Imgs").glob("*.jpg"))
    if not found:
        raise DataError(
            f"no *.jpg in {root / f'MT_{name}' / 'Imgs'}; is data.root the folder that holds MT_Free?"
        )
    return found


def _names(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"there is no training list {path} (data.layout_options.train_list)")
    return {line.strip() for line in path.read_text().splitlines() if line.strip()}
