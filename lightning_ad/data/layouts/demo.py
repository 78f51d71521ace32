"""ROOT/train/good/000.png, ROOT/test/<defect>/000.png, ROOT/ground_truth/<defect>/000_mask.png
(drawn by the program from a seed; nothing is downloaded)
"""

import hashlib
import shutil
from pathlib import Path

from lightning_ad.data import demo
from lightning_ad.data.layouts import mvtec
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError

SOURCE = "nothing to get: the program draws it"
LICENCE = "of this project"
MARKER = "drawn_by.txt"


def prepare(root: Path) -> None:
    """Draws the data set if it is not there, or another version of the program drew it.

    Raises:
        DataError: if `root` holds something else.
    """
    marker = root / MARKER
    version = _version()
    if is_drawn(root) and marker.read_text() == version:
        return
    holds_files = root.is_dir() and any(root.iterdir())
    if holds_files and not is_drawn(root):
        raise DataError(
            f"{root} holds files that are not the demo's; set data.root to a new or empty folder"
        )
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    demo.draw_demo(partial)
    (partial / marker.name).write_text(version)
    shutil.rmtree(root, ignore_errors=True)
    partial.rename(root)


def is_drawn(root: Path) -> bool:
    """Returns whether this or another version of the program drew the demo in a folder."""
    return (root / MARKER).is_file()


def find(root: Path, category: str | None) -> list[Sample]:
    """The demo: drawn parts with five kinds of defect, in MVTec's layout.

    Raises:
        UsageError: if a category is asked for.
    """
    return mvtec.find(root, category)


def _version() -> str:
    """Returns a digest of the program that draws."""
    digest = hashlib.sha256()
    for source in sorted(Path(demo.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
