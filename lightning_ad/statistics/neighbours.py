"""Exact nearest neighbours by matrix products, block by block in a core's cache."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded

QUERIES = {"cpu": 256, "cuda": 1024}  # rows of a block of distances, however many threads there are
ROWS = {
    "cpu": 512,
    "cuda": 65536,
}  # columns: half a MiB stays in a core's cache; a GPU wants to be busy
SPARE = 4  # neighbours more than asked for that are compared exactly, because products are rounded


def nearest_neighbours(
    queries: Tensor, bank: Tensor, count: int = 1, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of `bank` [N, D] for each of `queries` [M, D].

    Neighbours are found by |b|^2 - 2 q.b; the distances to those found are then computed from the differences,
    so that they have no cancellation error. Cost: 2 M N D operations in matrix products, and a pass over the
    products where they lie in the cache; beside the arguments, memory for one block and M x count results.

    Args:
        queries: [M, D].
        bank: [N, D], N at least `count`.
        count: of neighbours, at least 1.
        norms: [N], squared norms of the bank's rows, where they are known; infinite for rows that are no neighbours.

    Returns:
        Squared Euclidean distances [M, count], ascending, and rows of the bank int64 [M, count].
    """
    norms = bank.square().sum(1) if norms is None else norms
    search = partial(_nearest if count == 1 else _several, bank=bank, norms=norms, count=count)
    blocks = queries.split(QUERIES[bank.device.type])
    parts = (
        map_single_threaded(search, blocks)
        if bank.device.type == "cpu"
        else [search(block) for block in blocks]
    )
    found = (
        torch.cat(parts) if parts else torch.empty(0, count, dtype=torch.int64, device=bank.device)
    )
    exact = torch.stack([(queries - bank[column]).square_().sum(1) for column in found.T], 1)
    exact.masked_fill_(norms[found].isinf(), float("inf"))
    if found.shape[1] == 1:
        return exact, found
    exact, order = exact.sort(1)
    return exact[:, :count], found.gather(1, order)[:, :count]


def _blocks(queries: Tensor, bank: Tensor, norms: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first row of each block of the bank, and |b|^2 - 2 q.b [M, ROWS] for it."""
    step = ROWS[bank.device.type]
    for first in range(0, len(bank), step):
        rows = slice(first, first + step)
        yield first, torch.addmm(norms[rows], queries, bank[rows].T, alpha=-2)


def _nearest(queries: Tensor, bank: Tensor, norms: Tensor, count: int) -> Tensor:
    """First the block in which the nearest row lies, then the row: to find a minimum's place takes far longer."""
    block = torch.stack(
        [distances.amin(1) for _, distances in _blocks(queries, bank, norms)], 1
    ).argmin(1)
    found = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    step = ROWS[bank.device.type]
    for number in block.unique().tolist():
        mine, rows = (
            (block == number).nonzero().flatten(),
            slice(number * step, (number + 1) * step),
        )
        distances = torch.addmm(norms[rows], queries[mine], bank[rows].T, alpha=-2)
        found[mine] = distances.argmin(1) + number * step
    return found[:, None]


def _several(queries: Tensor, bank: Tensor, norms: Tensor, count: int) -> Tensor:
    count = min(count + SPARE, len(bank))
    best = queries.new_full((len(queries), count), float("inf"))
    found = torch.zeros(len(queries), count, dtype=torch.int64, device=queries.device)
    for first, distances in _blocks(queries, bank, norms):
        nearer = (distances.amin(1) < best[:, -1]).nonzero().flatten()
        values, places = torch.cat([best[nearer], distances[nearer]], 1).topk(count, largest=False)
        kept = found[nearer].gather(1, places.clamp(max=count - 1))
        best[nearer], found[nearer] = (
            values,
            torch.where(places < count, kept, places - count + first),
        )
    return found
