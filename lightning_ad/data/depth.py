"""How many bits the values in image files of 16 bits have: cameras fill 10, 12 or 14 of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_ad.data.reading import FULL_DEPTH, LEGACY, Bits, has_16_bits, highest_value
from lightning_ad.errors import DataError, UsageError

EIGHT = 8
DEPTHS = (EIGHT, 10, 12, 14, FULL_DEPTH)
READ_TOGETHER = 64  # images after which it is seen whether more need be read
CLEARLY_DARKER = 2  # two bits less make the same values four times smaller


@dataclass
class Depth:
    """The depth of a set of images, as far as it was read.

    Attributes:
        highest: the highest value in files of 16 bits; -1 if there are none.
        path: of the image that has it.
        files_of_8_bits: paths of files of 8 bits a channel, or of floats.
        images: number of images, read or not.
        values: the highest value of each file of 16 bits that was read.
    """

    highest: int = -1
    path: str = ""
    files_of_8_bits: list[str] = field(default_factory=list)
    images: int = 0
    values: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Sequence[str]) -> "Depth":
        """Reads the values of images, until one has all 16 bits.

        Raises:
            DataError: naming the file, if one cannot be read.
        """
        found = cls(images=len(paths))
        deep = []
        with ThreadPoolExecutor() as pool:
            for path, is_deep in zip(paths, pool.map(has_16_bits, paths), strict=True):
                group = deep if is_deep else found.files_of_8_bits
                group.append(path)
            for start in range(0, len(deep), READ_TOGETHER):
                part = deep[start : start + READ_TOGETHER]
                found._take_highest(part, list(pool.map(highest_value, part)))
                if found.bits == FULL_DEPTH:
                    break
        return found

    def _take_highest(self, paths: Sequence[str], values: Sequence[int]) -> None:
        self.values += values
        highest = max(values)
        if highest > self.highest:
            self.highest = highest
            self.path = paths[values.index(highest)]

    @property
    def bits(self) -> int:
        """The fewest bits of `DEPTHS` that hold all values; 8 without a file of 16 bits."""
        for bits in DEPTHS:
            if self.highest < 2**bits:
                return bits
        return FULL_DEPTH

    @property
    def has_16_bit_files(self) -> bool:
        return self.highest >= 0


def check_setting(bits: Bits | None) -> None:
    """Raises UsageError if `data.bits` is none of its values."""
    if bits is None or bits == LEGACY:
        return
    if not EIGHT <= int(bits) <= FULL_DEPTH:
        raise UsageError(f"data.bits: expected 8 to 16 or null, got {bits}")


def find_bits(training: Sequence[str]) -> tuple[int, Depth]:
    """Finds the depth of training images, and says it if it is more than 8 bits.

    Args:
        training: paths of the images, those that are held out too.
    """
    depth = Depth.of(training)
    if depth.bits > EIGHT:
        rank_zero_info(
            f"The images are read as of {depth.bits} bits: the training images have values up to "
            f"{depth.highest} ({depth.path}). If the camera has more, set data.bits"
        )
    return depth.bits, depth


def check_highest(depth: Depth, bits: int) -> None:
    """Raises DataError, naming an image, if one has larger values than these bits hold."""
    if depth.highest >= 2**bits:
        raise DataError(
            f"{depth.path} has values up to {depth.highest}, and those of {bits} bits, as the "
            f"training images have, go up to {2**bits - 1}: it is of another depth, or brighter. "
            "If it is of the same camera, set data.bits to the camera's bits and train anew"
        )


def check_depth(paths: Sequence[str], bits: int, training: Depth | None) -> None:
    """Checks that test images have the depth that the training images have.

    Args:
        paths: of the images.
        bits: of the training images.
        training: what was read of them; None if `bits` was given.

    Raises:
        DataError: naming an image of another depth; a warning if `bits` was given and is larger.
    """
    depth = Depth.of(paths)
    check_highest(depth, bits)
    message = _shallower(depth, bits, training)
    if not message:
        return
    if training is not None:
        raise DataError(
            f"{message}. Convert them to one depth; or set data.bits {bits} if they are right"
        )
    rank_zero_warn(f"{message}: are they of another depth?")


def _shallower(depth: Depth, bits: int, training: Depth | None) -> str:
    """Says how images differ that seem to have fewer bits than the training images; or nothing."""
    if bits == EIGHT:
        return ""
    shallow = depth.files_of_8_bits
    is_mixed = training is not None and training.files_of_8_bits
    if shallow and not is_mixed:
        return (
            f"{len(shallow)} of {depth.images} images have 8 bits a channel, {shallow[0]} first, "
            f"and the training images have {bits}"
        )
    if not depth.has_16_bit_files or depth.bits >= bits:
        return ""
    if training is None or median(training.values) > CLEARLY_DARKER * median(depth.values):
        return (
            f"the test images have values up to {depth.highest}, as if of {depth.bits} "
            f"bits, and the training images are of {bits}"
        )
    return ""
