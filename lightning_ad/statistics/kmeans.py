"""Lloyd's k-means from greedy k-means++ starts; in several processes, vectors stay where they are.

Every function here is called by all processes together, each with its own vectors (some may have
none). Only centres, sums, counts and the few vectors that move are exchanged.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import (
    gather_rows,
    process_rank,
    sum_over_processes,
    world_size,
)

BLOCK_BYTES = 64 * 2**20  # of vectors in float64 held at a time

Progress = Callable[[Iterable[int]], Iterable[int]]


class Clusters(NamedTuple):
    """The result of k-means.

    Attributes:
        centres: [K, D], the same on all processes.
        labels: int64 [N], the nearest centre of each vector of this process.
        inertia: the sum of squared distances of the vectors of all processes to their centres.
    """

    centres: Tensor
    labels: Tensor
    inertia: float


def kmeans(
    vectors: Tensor,
    start: Tensor,
    max_iter: int = 300,
    tolerance: float = 1e-4,
    progress: Progress = iter,
) -> Clusters:
    """Runs Lloyd's algorithm: vectors go to their nearest centre, centres to their vectors' mean.

    A centre without vectors takes the one that is farthest from its own centre, as in scikit-learn.
    Sums are in float64, so that they do not depend on the order of the vectors or the number of
    processes.

    Cost: O(N K D) time for an iteration, in matrix products. In addition to the vectors, 12 bytes
    for each of them, 2 K D float64 numbers and a few blocks of `BLOCK_BYTES`.

    Args:
        vectors: float32 [N, D] of this process.
        start: the first centres [K, D], the same on all processes; at most as many as there are
            vectors.
        max_iter: number of iterations at most.
        tolerance: stops if the squared shifts of all centres sum up to at most this, in units of
            the variance of the vectors averaged over their dimensions (as in scikit-learn); 0
            continues until nothing moves.
        progress: wraps the range of iterations.
    """
    mean, variance = _mean_and_variance(vectors)
    centres = start
    for _ in progress(range(max_iter)):
        updated = _step(vectors, centres, mean)
        shift = (updated.double() - centres).square().sum()
        centres = updated
        if float(shift) <= tolerance * variance:
            break
    squared, labels = _assign(vectors, centres, mean)
    inertia = _summed(squared.sum(dtype=torch.float64))
    return Clusters(centres, labels, float(inertia))


def best_kmeans(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    starts: int = 10,
    max_iter: int = 300,
    progress: Progress = iter,
) -> Clusters:
    """Runs k-means from several drawn starts, and returns the result of the lowest inertia.

    Args:
        vectors: float32 [N, D] of this process.
        count: of centres, at most as many as all processes have vectors.
        generator: on the CPU, in the same state on all processes.
        starts: number of starts, at least 1.
        max_iter: number of iterations of each at most.
        progress: wraps the range of starts.
    """
    best: Clusters | None = None
    for _ in progress(range(starts)):
        start = kmeans_plus_plus(vectors, count, generator)
        found = kmeans(vectors, start, max_iter)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def kmeans_plus_plus(
    vectors: Tensor, count: int, generator: torch.Generator, progress: Progress = iter
) -> Tensor:
    """Draws `count` vectors, each the best of a few that are drawn by their squared distance.

    The best one leaves the smallest sum of squared distances: the greedy k-means++ of Arthur and
    Vassilvitskii (SODA 2007) with 2 + ln(count) draws, as scikit-learn's.

    Cost: 2 N D count (2 + ln(count)) operations, in matrix products; 8 bytes for each vector and
    draw in memory.

    Args:
        vectors: float32 [N, D] of this process.
        count: of vectors to draw, at most as many as all processes have.
        generator: on the CPU, in the same state on all processes.
        progress: wraps the range of vectors to draw.

    Returns:
        [count, D], the same on all processes. If fewer vectors differ, some are drawn again.
    """
    draws = 2 + int(math.log(count))
    norms = vectors.square().sum(1)
    nearest = torch.ones_like(norms)
    drawn = vectors.new_empty(count, vectors.shape[1])
    for k in progress(range(count)):
        if not k:
            candidates = _draw(vectors, nearest, 1, generator)
            left = _squared(vectors, norms, candidates)
        else:
            candidates = _draw(vectors, nearest, draws, generator)
            left = torch.minimum(nearest[:, None], _squared(vectors, norms, candidates))
        sums = _summed(left.sum(0, dtype=torch.float64))
        best = int(sums.argmin())
        drawn[k] = candidates[best]
        nearest = left[:, best]
    return drawn


def _squared(vectors: Tensor, norms: Tensor, candidates: Tensor) -> Tensor:
    """Returns the squared distances [N, C] of vectors, of these squared norms, to candidates."""
    products = torch.addmm(norms[:, None], vectors, candidates.T, alpha=-2)
    return products.add_(candidates.square().sum(1)).clamp_(min=0)


def _draw(vectors: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws vectors [count, D] of all processes', with probabilities in proportion to weights."""
    ends = weights.cumsum(0, dtype=torch.float64)
    own_mass = torch.cat([ends.new_zeros(1), ends])[-1:]
    masses = gather_rows(own_mass)
    total = masses.sum()
    if not total:
        return _draw(vectors, torch.ones_like(weights), count, generator)
    # In order, as the processes give their vectors.
    shares = torch.rand(count, dtype=torch.float64, generator=generator).sort().values
    places = total * shares.to(total.device)
    before = masses.cumsum(0) - masses
    begins_before = (before[:, None] <= places) & (masses > 0)[:, None]
    ranks = torch.arange(len(masses), device=masses.device)
    owners = torch.where(begins_before, ranks[:, None], 0).amax(0)
    own = places[owners == process_rank()] - before[process_rank()]
    rows = torch.searchsorted(ends, own, right=True).clamp(max=len(ends) - 1)
    return gather_rows(vectors[rows])


def _step(vectors: Tensor, centres: Tensor, mean: Tensor) -> Tensor:
    """Returns the means [K, D] of the vectors that are nearest to each centre."""
    squared, labels = _assign(vectors, centres, mean)
    sums = torch.zeros(centres.shape, dtype=torch.float64, device=centres.device)
    for rows in _blocks(vectors):
        sums.index_add_(0, labels[rows], vectors[rows].double())
    sums = _summed(sums)
    counts = _summed(labels.bincount(minlength=len(centres)))
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        donors, moved = _farthest(vectors, squared, labels, len(empty))
        sums.index_add_(0, donors, -moved)
        counts.index_add_(0, donors, -torch.ones_like(donors))
        sums[empty] = moved
        counts[empty] = 1
    divisors = counts.clamp(min=1)[:, None]
    means = (sums / divisors).to(centres.dtype)
    # A centre that has given its only vector stays where it is.
    return torch.where(counts[:, None] > 0, means, centres)


def _farthest(
    vectors: Tensor, squared: Tensor, labels: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Finds the vectors of all processes that are farthest from their centres.

    Returns:
        Their centres int64 [count], and the vectors float64 [count, D].
    """
    own = squared.topk(min(count, len(squared))).indices
    distances = gather_rows(squared[own])
    order = distances.argsort(descending=True, stable=True)[:count]
    centres = gather_rows(labels[own])[order]
    farthest = gather_rows(vectors[own])[order]
    return centres, farthest.double()


def _assign(vectors: Tensor, centres: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the squared distances [N] to the nearest centres, and these, int64 [N].

    Products of vectors that are far from the origin round away their differences, so the mean [D]
    is subtracted first.
    """
    squared = vectors.new_empty(len(vectors))
    labels = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    centred = centres - mean
    for rows in _blocks(vectors):
        distances, found = nearest_neighbours(vectors[rows] - mean, centred)
        squared[rows] = distances[:, 0]
        labels[rows] = found[:, 0]
    return squared, labels


def _mean_and_variance(vectors: Tensor) -> tuple[Tensor, float]:
    """Returns the mean [D] of all processes' vectors, and their mean variance of a dimension."""
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for rows in _blocks(vectors):
        total += vectors[rows].double().sum(0)
    count = sum_over_processes(len(vectors), vectors.device)
    mean = _summed(total) / count
    deviation = torch.zeros_like(total)
    for rows in _blocks(vectors):
        deviation += (vectors[rows] - mean).square_().sum(0)
    variance = _summed(deviation).mean() / count
    return mean.to(vectors.dtype), float(variance)


def _blocks(vectors: Tensor) -> Iterator[slice]:
    length = max(1, BLOCK_BYTES // (8 * vectors.shape[1]))
    for start in range(0, len(vectors), length):
        yield slice(start, start + length)


def _summed(part: Tensor) -> Tensor:
    """Returns the sum over all processes, which replaces `part`."""
    if world_size() > 1:
        dist.all_reduce(part)
    return part
