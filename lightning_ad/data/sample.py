"""The types that all of the package shares: a row of a data set, a batch, and a prediction."""

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
MaskReading = Literal["bright", "dark", "legacy"]  # which pixels of a mask are defective
GOOD = "good"
NEVER_DEFECTIVE = 255  # a mask threshold that no pixel is above


class Regions(NamedTuple):
    """The defective regions of one image, each found in full once a share of it is (MVTec LOCO).

    Attributes:
        masks: bool [R, H, W]; regions may overlap.
        shares: float32 [R] in (0, 1], the share of each region that must be found.
    """

    masks: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Saturation:
    """How much of a defective region must be found for it to count as found in full.

    Attributes:
        value: the value of the region's pixels in the mask, 1 to 255; it identifies the kind.
        threshold: a number of pixels of the mask file, or a share of the region.
        relative: true if the threshold is a share.
        whole_pixels: a share of a region is rounded down to whole pixels of the mask file, to one
            at least.
    """

    value: int
    threshold: float
    relative: bool
    whole_pixels: bool = True

    def share(self, area: int) -> float:
        """Returns the share of a region of `area` pixels that must be found, in (0, 1]."""
        if not self.relative:
            return min(1.0, self.threshold / area)
        if self.whole_pixels:
            return min(1.0, max(1, int(self.threshold * area)) / area)
        return min(1.0, self.threshold)


@dataclass(frozen=True)
class Sample:
    """One row of a data set, as a layout finds it on disk; nothing is read yet.

    Attributes:
        path: the image file.
        split: the split that the layout puts the image in.
        defect: the kind of defect as the data set names it, `good` for a good part.
        mask_path: the mask file of the defect, or a folder of masks whose union it is; None for a
            good part, or if the data set has no masks.
        mask_threshold: a pixel is defective if the mask, scaled to 0..255, is above this.
        saturations: one for each kind of region in the masks; empty if the data set has none.
        ignore_path: an image file that is not black in the ignored regions; None for none.
        ignore_value: the value of ignored pixels in the mask, 1 to 255; None for none.
        mask_reading: which pixels of the mask are defective (`data.mask_reading`).
    """

    path: str
    split: Split
    defect: str = GOOD
    mask_path: str | None = None
    mask_threshold: int = 127
    saturations: tuple[Saturation, ...] = ()
    ignore_path: str | None = None
    ignore_value: int | None = None
    mask_reading: MaskReading = "bright"

    @property
    def label(self) -> int:
        """0 good, 1 anomalous."""
        return int(self.defect != GOOD)

    def without_label(self) -> Self:
        """Returns this sample as if it were good; of its mask only the ignored pixels stay."""
        mask_path = None
        if self.ignore_value is not None:
            mask_path = self.mask_path
        return replace(
            self, defect=GOOD, mask_path=mask_path, mask_threshold=NEVER_DEFECTIVE, saturations=()
        )


@dataclass
class Batch:
    """A batch of images, as every method sees it.

    Attributes:
        image: float32 [B, 3, H, W] in [0, 1], RGB, not normalised.
        label: int64 [B], 0 good, 1 anomalous.
        mask: bool [B, H, W], true where the part is defective.
        index: int64 [B], the row in the data set; -1 for padding, which must not be counted.
        path: the image files.
        defect: the kinds of defect, `good` for a good part.
        recipe: what the loader drew for synthetic anomalies, by name; empty if there are none.
        regions: the regions of each image, None if it has none; empty if the data set has no
            saturations.
        ignore: bool [B, H, W], true in ignored regions, where `mask` is false; None if the data set
            has none.
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
        ignore = self.ignore
        if ignore is not None:
            ignore = ignore.pin_memory()
        return replace(
            self,
            image=self.image.pin_memory(),
            label=self.label.pin_memory(),
            mask=self.mask.pin_memory(),
            index=self.index.pin_memory(),
            recipe={name: value.pin_memory() for name, value in self.recipe.items()},
            ignore=ignore,
        )

    def share_memory(self) -> Self:
        """Moves all tensors to the memory that processes share, if they are not there.

        Raises:
            RuntimeError: if it is full.
        """
        tensors = [self.image, self.label, self.mask, self.index, *self.recipe.values()]
        for regions in self.regions:
            tensors += regions or ()
        if self.ignore is not None:
            tensors.append(self.ignore)
        for tensor in tensors:
            tensor.share_memory_()
        return self

    def without_padding(self) -> Self:
        """Returns this batch without the rows that only fill it up."""
        return self.select(self.index >= 0)

    def select(self, keep: Tensor) -> Self:
        """Returns the rows for which `keep`, bool [B], is true; this batch itself if all are."""
        if bool(keep.all()):
            return self
        rows = keep.nonzero().flatten().tolist()
        regions = self.regions
        if regions:
            regions = [regions[row] for row in rows]
        ignore = self.ignore
        if ignore is not None:
            ignore = ignore[keep]
        return replace(
            self,
            image=self.image[keep],
            label=self.label[keep],
            mask=self.mask[keep],
            index=self.index[keep],
            path=[self.path[row] for row in rows],
            defect=[self.defect[row] for row in rows],
            recipe={name: value[keep] for name, value in self.recipe.items()},
            regions=regions,
            ignore=ignore,
        )


class Prediction(NamedTuple):
    """The result of a method for a batch. Higher is more anomalous; raw values, never normalised.

    Attributes:
        map: float32 [B, H, W] at the size of the input.
        score: float32 [B].
        nearest: int64 [B, 3], the good patch nearest to the image's worst one: training image, and
            row and column of the feature grid; None for methods that keep no patches.
    """

    map: Tensor
    score: Tensor
    nearest: Tensor | None = None


def collate(items: list[Batch]) -> Batch:
    """Joins items (batches of one) into one batch."""
    paths: list[str] = []
    defects: list[str] = []
    regions: list[Regions | None] = []
    for item in items:
        paths += item.path
        defects += item.defect
        regions += item.regions
    return Batch(
        image=torch.cat([item.image for item in items]),
        label=torch.cat([item.label for item in items]),
        mask=torch.cat([item.mask for item in items]),
        index=torch.cat([item.index for item in items]),
        path=paths,
        defect=defects,
        recipe=_joined_recipe(items),
        regions=regions,
        ignore=_joined_ignore(items),
    )


def _joined_recipe(items: list[Batch]) -> dict[str, Tensor]:
    joined = {}
    for name in items[0].recipe:
        joined[name] = torch.cat([item.recipe[name] for item in items])
    return joined


def _joined_ignore(items: list[Batch]) -> Tensor | None:
    parts = [item.ignore for item in items if item.ignore is not None]
    if not parts:
        return None
    return torch.cat(parts)
