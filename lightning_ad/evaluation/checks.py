"""Checks of what metrics are given."""

from torch import Tensor

from lightning_ad.errors import UserError


def check_same_shape(**tensors: Tensor) -> None:
    """Raises ValueError if two tensors differ in shape, and names them by their keywords."""
    (first, one), (second, other) = tensors.items()
    if one.shape != other.shape:
        raise ValueError(
            f"{first} and {second} must have the same shape, "
            f"but have {list(one.shape)} and {list(other.shape)}."
        )


def check_scores(scores: Tensor, weights: Tensor) -> None:
    """Checks scores that are to be ranked.

    Raises:
        ValueError: the shapes differ.
        UserError: a score is NaN.
    """
    if scores.shape != weights.shape:
        raise ValueError(
            "Each score needs a weight, "
            f"got {list(scores.shape)} scores and {list(weights.shape)} weights."
        )
    reject_nan(scores, "scores")


def reject_nan(values: Tensor, name: str) -> None:
    """Raises UserError, with their number, if there are NaN among the values."""
    missing = int(values.isnan().sum())
    if missing:
        raise UserError(
            f"{name.capitalize()} must be numbers, but {missing} of {values.numel()} are NaN. "
            "Look for a training that diverged (lower the learning rate) or for broken images."
        )
