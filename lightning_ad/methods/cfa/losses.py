"""CFA's coupled hyperspheres: distances, the loss and the score (sections III-D and III-E)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.statistics.neighbours import nearest_neighbours


class _NearestSquaredDistances(torch.autograd.Function):
    """Saves only the rows that were found for the backward pass.

    The differences, M * count * D numbers, are computed again there.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, bank: Tensor, count: int) -> Tensor:
        squared, rows = nearest_neighbours(queries, bank, count)
        ctx.save_for_backward(queries, bank, rows)
        return squared

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        queries, bank, rows = ctx.saved_tensors
        total = torch.zeros_like(queries)
        for column, weight in zip(rows.T, gradient.T, strict=True):
            total.addcmul_(bank[column].sub_(queries), weight[:, None], value=-2)
        return total, None, None


def nearest_squared_distances(queries: Tensor, bank: Tensor, count: int) -> Tensor:
    """Returns squared distances [M, count], ascending, of queries [M, D] to the bank [N, D].

    Only the queries have a gradient.
    """
    return _NearestSquaredDistances.apply(queries, bank, count)


def hypersphere_losses(
    squared: Tensor, radius: Tensor, neighbours: int, alpha: float, nu: float
) -> tuple[Tensor, Tensor]:
    """Attraction into the hyperspheres of the nearest centres, repulsion from those of the next.

    Args:
        squared: distances d^2 [M, K + J] to the K + J nearest centres, ascending.
        radius: r, a scalar.
        neighbours: K.
        alpha: the margin of the repulsion.
        nu: both losses are divided by it.

    Returns:
        mean(max(0, d^2 - r^2)) / nu over the first K, and mean(max(0, r^2 - d^2 - alpha)) / nu over
        the other J.
    """
    near = squared[:, :neighbours]
    hard = squared[:, neighbours:]
    attraction = F.relu(near - radius.square()).mean() / nu
    repulsion = F.relu(radius.square() - hard - alpha).mean() / nu
    return attraction, repulsion


def softmin_score(distances: Tensor) -> Tensor:
    """Returns the nearest distance times its softmin weight, [M], from [M, K], ascending."""
    return F.softmin(distances, dim=1)[:, 0] * distances[:, 0]
