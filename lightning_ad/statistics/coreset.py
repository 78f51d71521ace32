"""Greedy k-centre selection: few vectors so that every vector has one near."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Progress = Callable[[Iterable[int]], Iterable[int]]


def random_projection(dimension: int, target: int, generator: torch.Generator) -> Tensor:
    """A matrix [dimension, target] with entries uniform in +- 1/sqrt(dimension) (PatchCore's released code)."""
    bound = dimension**-0.5
    return (torch.rand(dimension, target, generator=generator) * 2 - 1) * bound


def k_center_greedy(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    starting_points: int | None = 10,
    progress: Progress = iter,
) -> Tensor:
    """Selects `count` of the vectors [N, D], each the farthest from those before it (Sener & Savarese 2018).

    Every step is one product of the vectors with a vector: O(N D count) in time, and N + O(N) floats beside the
    vectors in memory. One farthest point of several is the first.

    Args:
        vectors: float32 [N, D].
        count: of vectors to select, at most N.
        generator: on the CPU; draws the start.
        starting_points: as in PatchCore's released code, the first distance of a vector is its mean distance to
            that many random vectors, which are not themselves selected; None starts with one random vector.
        progress: wraps the range of steps.

    Returns:
        The rows selected, int64 [count], in order of selection.
    """
    norms = vectors.square().sum(1)
    selected = torch.empty(count, dtype=torch.int64, device=vectors.device)
    first = 0
    if starting_points is None:
        selected[0] = int(torch.randint(len(vectors), (1,), generator=generator))
        nearest, first = _squared_distances(vectors, norms, selected[0]), 1
        nearest[selected[0]] = -1
    else:
        starts = torch.randperm(len(vectors), generator=generator)[:starting_points].to(vectors.device)
        distances = [_squared_distances(vectors, norms, row).sqrt_() for row in starts]
        nearest = torch.stack(distances).mean(0).square_()
    for step in progress(range(first, count)):
        row = nearest.argmax()
        selected[step] = row
        torch.minimum(nearest, _squared_distances(vectors, norms, row), out=nearest)
        nearest[row] = -1  # rounding must not select it twice
    return selected


def _squared_distances(vectors: Tensor, norms: Tensor, row: Tensor) -> Tensor:
    products = torch.addmv(norms, vectors, vectors[row], alpha=-2)
    return products.add_(norms[row]).clamp_(min=0)
