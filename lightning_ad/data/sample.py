"""The words that all rooms share: a row of a data set, an item read from disk, and a batch of items."""

from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
GOOD = "good"


class Regions(NamedTuple):
    """The defective regions of one image, where each is found in full once a part of it is (MVTec LOCO).

    Attributes:
        masks: bool [R, H, W]; regions may overlap.
        shares: float32 [R], the part of each that is enough, in (0, 1].
    """

    masks: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Saturation:
    """How much of a defective region must be found for it to count as found in full.

    Attributes:
        value: of the region's pixels in the mask, in 1..255, by which the kind of region is known.
        threshold: pixels of the file, or a share of the region.
        relative: whether it is a share.
    """

    value: int
    threshold: float
    relative: bool

    def share(self, area: int) -> float:
        """The part of a region of `area` pixels that is enough, in (0, 1]."""
        return min(1.0, self.threshold if self.relative else self.threshold / area)


@dataclass(frozen=True)
class Sample:
    """One row of a data set, as a layout finds it on disk; nothing is read yet.

    Attributes:
        path: the image file.
        split: what the layout wants the image for.
        defect: the kind of defect as the data set names it, `good` for a good part.
        mask_path: the file of the true outline, or a folder of files that make it up; None for a good part, or where
            the data set has none.
        mask_threshold: a pixel is defective where the mask, scaled to 0..255, is above it.
        saturations: of the kinds of region in the masks; empty where the data set knows none.
        ignore_path: the file of the regions that are not to be looked at, those that are not black; None for none.
        ignore_value: of ignored pixels in the mask, in 1..255; None for none.
    """

    path: str
    split: Split
    defect: str = GOOD
    mask_path: str | None = None
    mask_threshold: int = 127
    saturations: tuple[Saturation, ...] = ()
    ignore_path: str | None = None
    ignore_value: int | None = None

    @property
    def label(self) -> int:
        """0 good, 1 anomalous."""
        return int(self.defect != GOOD)


@dataclass
class Batch:
    """What every method sees. `index` is -1 for a row that only fills up a batch and must not be counted.

    Attributes:
        image: float32 [B, 3, H, W] in [0, 1], RGB, not normalised.
        label: int64 [B], 0 good, 1 anomalous.
        mask: bool [B, H, W], true where the part is defective.
        index: int64 [B], the row in the data set.
        path: the image files.
        defect: the kinds of defect, `good` for a good part.
        recipe: what the loader drew and read for synthetic anomalies, by name; empty where the method wants none.
        regions: those of each image, None where there are none; empty where the data set knows no saturation.
        ignore: bool [B, H, W], true where the image is not to be looked at; it is not defective there. None where the
            data set has no such regions.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    index: Tensor
    path: list[str]
    defect: list[str]
    recipe: dict[str, Tensor]
    regions: list[Regions | None] = field(default_factory=list)
    ignore: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def pin_memory(self) -> Self:
        """Page-locks all tensors (called by the DataLoader)."""
        pinned = {k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)}
        recipe = {k: v.pin_memory() for k, v in self.recipe.items()}
        return type(self)(**{**vars(self), **pinned, "recipe": recipe})

    def without_padding(self) -> Self:
        """This batch without the rows that only fill it up."""
        return self.select(self.index >= 0)

    def select(self, keep: Tensor) -> Self:
        """The rows where `keep`, bool [B], is true; this batch itself where all are."""
        if bool(keep.all()):
            return self
        rows = keep.nonzero().flatten().tolist()
        kept = {f.name: _select(getattr(self, f.name), keep, rows) for f in fields(self)}
        return type(self)(**kept)


class Prediction(NamedTuple):
    """Higher is more anomalous; raw values, never normalised with test statistics.

    Attributes:
        map: float32 [B, H, W] at the size of the input.
        score: float32 [B].
        nearest: int64 [B, 3], the good patch nearest to the image's worst one: training image, and row and column of
            the grid of features; None for methods that keep no patches.
    """

    map: Tensor
    score: Tensor
    nearest: Tensor | None = None


def _select(
    value: Tensor | list | dict | None, keep: Tensor, rows: list[int]
) -> Tensor | list | dict | None:
    if value is None or isinstance(value, Tensor):
        return None if value is None else value[keep]
    if isinstance(value, dict):
        return {k: v[keep] for k, v in value.items()}
    return [value[row] for row in rows] if value else []


def collate(items: list[Batch]) -> Batch:
    """Joins items (batches of one) into one batch."""
    first = items[0]
    return Batch(
        image=torch.cat([i.image for i in items]),
        label=torch.cat([i.label for i in items]),
        mask=torch.cat([i.mask for i in items]),
        index=torch.cat([i.index for i in items]),
        path=[p for i in items for p in i.path],
        defect=[d for i in items for d in i.defect],
        recipe={k: torch.cat([i.recipe[k] for i in items]) for k in first.recipe},
        regions=[r for i in items for r in i.regions],
        ignore=None
        if first.ignore is None
        else torch.cat([i.ignore for i in items if i.ignore is not None]),
    )
