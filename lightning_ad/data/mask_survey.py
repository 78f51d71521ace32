"""What the masks say before a run: doubtful ones, and defects that the crop cuts off."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.reading import image_size, read_sample_mask
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError

MUCH = 0.5  # the share of its image that a mask may call defective without a notice


class MaskFacts(NamedTuple):
    """What one mask says.

    Attributes:
        path: of its image.
        share: of the image that is defective, in [0, 1].
        is_scaled: it has another size than its image.
        resized: number of defective pixels after the resize.
        kept: number of those in the crop.
    """

    path: str
    share: float
    is_scaled: bool
    resized: int
    kept: int


@dataclass(frozen=True)
class MaskSurvey:
    """What the masks of a set of images say.

    Attributes:
        masks: of the images that have one that can be read.
        crops: whether the images are cropped.
        reading: `data.mask_reading` of the images.
    """

    masks: Sequence[MaskFacts]
    crops: bool
    reading: str = "bright"

    @property
    def mostly_defective(self) -> list[str]:
        """The images that are defective for the most part, the worst first, as text."""
        much = [mask for mask in self.masks if mask.share > MUCH]
        much.sort(key=lambda mask: -mask.share)
        return [f"{mask.path} ({mask.share:.0%})" for mask in much]

    @property
    def scaled(self) -> list[str]:
        """The images whose mask has another size."""
        return [mask.path for mask in self.masks if mask.is_scaled]

    @property
    def cut_off(self) -> list[str]:
        """The images whose whole defect the crop takes."""
        return [mask.path for mask in self.masks if mask.resized and not mask.kept]

    @property
    def protocol(self) -> dict[str, Any] | None:
        """What the crop takes, for metrics.json; None without a crop.

        `images` with a defect; those that lose it `wholly` or `in_part`; the lost `share` of all
        defective pixels.
        """
        if not self.crops:
            return None
        defects = [mask for mask in self.masks if mask.resized]
        in_part = [mask for mask in defects if 0 < mask.kept < mask.resized]
        return {
            "images": len(defects),
            "wholly": len(self.cut_off),
            "in_part": len(in_part),
            "share": self._lost_share(),
        }

    def _lost_share(self) -> float:
        before = sum(mask.resized for mask in self.masks)
        if not before:
            return 0.0
        return 1 - sum(mask.kept for mask in self.masks) / before

    def warn(self) -> None:
        """Says which masks are doubtful, and what the crop takes."""
        much = self.mostly_defective
        if much:
            remedy = ""
            if self.reading == "bright":
                remedy = "; if dark pixels are the defects, set --data.mask_reading dark"
            rank_zero_warn(
                f"{len(much)} of {len(self.masks)} masks call more than {MUCH:.0%} of their image "
                f"defective, {much[0]} first{remedy}"
            )
        if self.scaled:
            rank_zero_warn(
                f"{len(self.scaled)} of {len(self.masks)} masks have another size than their "
                f"image, {self.scaled[0]} first, and are resized to it by nearest neighbour"
            )
        loss = self.crop_loss
        if loss:
            rank_zero_warn(loss)

    @property
    def crop_loss(self) -> str:
        """What the crop takes, in words; empty if it takes nothing."""
        lost = self.protocol
        if lost is None or not lost["share"]:
            return ""
        first = f", {self.cut_off[0]} first," if self.cut_off else ""
        return (
            f"data.center_crop cuts defects off: {lost['wholly']} of {lost['images']} images with "
            f"a defect lose all of it{first} and {lost['in_part']} a part, together "
            f"{lost['share']:.1%} of the defective pixels. The method cannot see them: "
            "--data.center_crop null keeps them"
        )

    @classmethod
    def of(cls, samples: Sequence[Sample], geometry: Geometry) -> Self:
        """Reads the masks of samples, on all cores.

        Args:
            samples: images; those without a mask are passed over, and those whose mask cannot be
                read, which is said elsewhere.
            geometry: how the images come to the size that a network sees.
        """
        masked = [sample for sample in samples if sample.mask_path is not None and sample.label]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(partial(_facts, geometry), masked))
        reading = masked[0].mask_reading if masked else "bright"
        facts = [mask for mask in found if mask is not None]
        return cls(facts, geometry.crop_to is not None, reading)


def _facts(geometry: Geometry, sample: Sample) -> MaskFacts | None:
    path = str(sample.mask_path)
    try:
        size = image_size(sample.path)
        mask = read_sample_mask(sample, size)
        is_scaled = os.path.isfile(path) and image_size(path) != size
        resized = replace(geometry, crop_to=None).mask(mask)
        kept = geometry.mask(mask)
    except DataError:
        return None
    share = float(mask.float().mean())
    return MaskFacts(sample.path, share, is_scaled, int(resized.sum()), int(kept.sum()))
