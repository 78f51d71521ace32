"""Scores and features that are no finite numbers: found at the first image, and named."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import NotFiniteError


def check_scores(prediction: Prediction) -> None:
    """Raises NotFiniteError for the first image whose score or map is not finite.

    A score may be minus infinity: that of an image that is ignored everywhere.
    """
    has_score = prediction.score < torch.inf  # false for NaN too
    good = has_score & prediction.map.isfinite().flatten(1).all(1)
    if not bool(good.all()):
        raise NotFiniteError("score", int(good.int().argmin()))


@contextmanager
def naming_images(paths: Sequence[str]) -> Iterator[None]:
    """Names the image of a NotFiniteError that is raised within.

    Args:
        paths: of the images of the batch.
    """
    try:
        yield
    except NotFiniteError as error:
        if error.row >= len(paths):
            raise
        raise NotFiniteError(error.what, error.row, paths[error.row]) from error
