"""Splits samples, and holds training images out for validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_ad.data.layouts._files import seeded_split
from lightning_ad.data.sample import Sample, Split
from lightning_ad.errors import DataError, UsageError

Validation = Literal["none", "holdout", "given", "fold"]


def by_split(samples: Sequence[Sample]) -> dict[Split, list[Sample]]:
    """Returns the samples of each split, in their order."""
    found: dict[Split, list[Sample]] = {"train": [], "validation": [], "test": []}
    for sample in samples:
        found[sample.split].append(sample)
    return found


@dataclass(frozen=True)
class HoldOut:
    """The choice of the training images that are held out, by the arguments of the data module.

    Attributes:
        validation: none, holdout, given or fold.
        share: the share of the training images that `holdout` takes.
        folds: the number of parts of `fold`.
        fold: the part that is held out, counted from 0.
        seed: the seed of `holdout` and `fold`.

    Raises:
        UsageError: if the share or the fold is not possible.
    """

    validation: Validation
    share: float
    folds: int
    fold: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(
                f"data.validation_share: expected a share between 0 and 1, got {self.share}"
            )
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise UsageError(
                f"data.fold: expected a fold counted from 0, of at least 2 data.folds; got fold "
                f"{self.fold} of {self.folds}"
            )

    def split(self, train: list[Sample], given: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Returns the training images that stay, and those that are held out.

        Args:
            train: all training images.
            given: the layout's own validation set.

        Raises:
            UsageError: if `given` is asked for and the layout has no validation set.
            DataError: if there are too few images.
        """
        if self.validation == "fold":
            return fold_of(train, self.folds, self.fold, self.seed)
        if self.validation == "holdout":
            return holdout_of(train, self.share, self.seed)
        if self.validation == "none":
            return train, []
        if not given:
            raise UsageError(
                "the layout has no validation set in data.root; set data.validation to holdout or "
                "fold"
            )
        return train, given


def holdout_of(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Returns the samples that stay, and a seeded share of them that is held out.

    Raises:
        DataError: if none would stay.
    """
    by_path = {Path(sample.path): sample for sample in samples}
    kept, held = seeded_split(list(by_path), share, seed)
    if not kept:
        raise DataError(f"{len(by_path)} training images are too few to hold out {share:.0%}")
    return [by_path[path] for path in kept], [by_path[path] for path in held]


def fold_of(
    samples: list[Sample], folds: int, fold: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Returns the samples that stay, and those of one fold.

    The folds are those of scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`.

    Raises:
        DataError: if there are fewer samples than folds.
    """
    if len(samples) < folds:
        raise DataError(f"{len(samples)} training images are too few for {folds} data.folds")
    order = np.random.RandomState(seed).permutation(len(samples))
    held_rows = set(np.array_split(order, folds)[fold].tolist())
    kept = []
    held = []
    for row, sample in enumerate(samples):
        if row in held_rows:
            held.append(sample)
        else:
            kept.append(sample)
    return kept, held
