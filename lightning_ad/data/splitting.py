"""Which training images are held out."""

from pathlib import Path
from typing import Literal

import numpy as np

from lightning_ad.data.layouts._files import seeded_split
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError

Validation = Literal["none", "holdout", "given", "fold"]


def held_out(
    train: list[Sample],
    given: list[Sample],
    validation: Validation,
    share: float,
    folds: int,
    fold: int,
    seed: int,
) -> tuple[list[Sample], list[Sample]]:
    """Training images that stay, and those that are held out; the arguments are those of the data module.

    Raises:
        UsageError: where a validation set is to be there, and is not.
        DataError: where there are too few images.
    """
    if validation == "given" and not given:
        raise UsageError(
            "the layout has no validation set in data.root; set data.validation to holdout or fold"
        )
    if validation == "fold":
        return fold_of(train, folds, fold, seed)
    if validation == "holdout":
        return holdout_of(train, share, seed)
    return train, given if validation == "given" else []


def holdout_of(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Those that stay, and a seeded share of them that does not.

    Raises:
        DataError: where none would stay.
    """
    by_path = {Path(sample.path): sample for sample in samples}
    left, held = seeded_split(list(by_path), share, seed)
    if not left:
        raise DataError(f"{len(by_path)} training images are too few to hold out {share:.0%}")
    return [by_path[path] for path in left], [by_path[path] for path in held]


def fold_of(
    samples: list[Sample], folds: int, fold: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Those that stay, and those of a fold: of scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`.

    Raises:
        DataError: where there are fewer than folds.
    """
    if len(samples) < folds:
        raise DataError(f"{len(samples)} training images are too few for {folds} data.folds")
    order = np.random.RandomState(seed).permutation(len(samples))
    rows = set(np.array_split(order, folds)[fold].tolist())
    kept = [sample for row, sample in enumerate(samples) if row not in rows]
    return kept, [samples[row] for row in sorted(rows)]
