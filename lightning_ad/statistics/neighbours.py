"""Exact nearest neighbours by matrix products, block by block in a core's cache."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded

# Queries and rows of a block of distances, however many threads there are: half a MiB stays in a
# core's cache, a GPU wants to be busy.
QUERIES = {"cpu": 256, "cuda": 1024}
ROWS = {"cpu": 512, "cuda": 65536}
SPARE = 4  # neighbours more than asked for that are compared exactly, because products are rounded


def nearest_neighbours(
    queries: Tensor, bank: Tensor, count: int = 1, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Finds the `count` nearest rows of `bank` [N, D] for each of `queries` [M, D].

    Neighbours are found by |b|^2 - 2 q.b; the distances to those found are then computed from the
    differences, so that they have no cancellation error. Cost: 2 M N D operations in matrix
    products, and a pass over the products while they are in the cache; memory for one block and
    M x count results, in addition to the arguments.

    Args:
        queries: [M, D].
        bank: [N, D], N at least `count`.
        count: of neighbours, at least 1.
        norms: [N], squared norms of the bank's rows if they are known; infinite for rows that are
            never neighbours.

    Returns:
        Squared Euclidean distances [M, count], ascending, and rows of the bank int64 [M, count].
    """
    if norms is None:
        norms = bank.square().sum(1)
    if count == 1:
        search = partial(_find_one, bank=bank, norms=norms)
    else:
        search = partial(_find_several, bank=bank, norms=norms, count=count)
    found = _search_by_blocks(search, queries, bank.device, count)
    columns = []
    for rows in found.T:
        differences = queries - bank[rows]
        columns.append(differences.square_().sum(1))
    exact = torch.stack(columns, 1)
    exact.masked_fill_(norms[found].isinf(), float("inf"))
    if found.shape[1] == 1:
        return exact, found
    exact, order = exact.sort(1)
    return exact[:, :count], found.gather(1, order)[:, :count]


def _search_by_blocks(
    search: Callable[[Tensor], Tensor], queries: Tensor, device: torch.device, count: int
) -> Tensor:
    """Returns rows int64 [M, count or more] for blocks of queries; on a CPU each on one thread."""
    blocks = queries.split(QUERIES[device.type])
    if not blocks:
        return torch.empty(0, count, dtype=torch.int64, device=device)
    if device.type == "cpu":
        return torch.cat(map_single_threaded(search, blocks))
    return torch.cat([search(block) for block in blocks])


def _distance_blocks(queries: Tensor, bank: Tensor, norms: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields the first row of each block of the bank, and |b|^2 - 2 q.b [M, ROWS] for it."""
    step = ROWS[bank.device.type]
    for first in range(0, len(bank), step):
        rows = slice(first, first + step)
        yield first, torch.addmm(norms[rows], queries, bank[rows].T, alpha=-2)


def _find_one(queries: Tensor, bank: Tensor, norms: Tensor) -> Tensor:
    """Finds the nearest row's block, then the row: argmin takes far longer than amin."""
    nearest_of_blocks = []
    for _, distances in _distance_blocks(queries, bank, norms):
        nearest_of_blocks.append(distances.amin(1))
    nearest_block = torch.stack(nearest_of_blocks, 1).argmin(1)
    found = torch.empty_like(nearest_block)
    step = ROWS[bank.device.type]
    for number in nearest_block.unique().tolist():
        own = (nearest_block == number).nonzero().flatten()
        first = number * step
        rows = slice(first, first + step)
        distances = torch.addmm(norms[rows], queries[own], bank[rows].T, alpha=-2)
        found[own] = distances.argmin(1) + first
    return found[:, None]


def _find_several(queries: Tensor, bank: Tensor, norms: Tensor, count: int) -> Tensor:
    """Finds the `count` nearest rows and some to spare, in no exact order."""
    count = min(count + SPARE, len(bank))
    best = queries.new_full((len(queries), count), float("inf"))
    found = torch.zeros_like(best, dtype=torch.int64)
    for first, distances in _distance_blocks(queries, bank, norms):
        has_nearer = distances.amin(1) < best[:, -1]
        nearer = has_nearer.nonzero().flatten()
        joined = torch.cat([best[nearer], distances[nearer]], 1)
        values, places = joined.topk(count, largest=False)
        earlier = found[nearer].gather(1, places.clamp(max=count - 1))
        best[nearer] = values
        found[nearer] = torch.where(places < count, earlier, places - count + first)
    return found
