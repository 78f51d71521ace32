"""Exact nearest neighbours by matrix products."""

import torch
from torch import Tensor

BLOCK_BYTES = 64 * 2**20  # of distances held at a time


def nearest_neighbours(queries: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of `bank` [N, D] for each of `queries` [M, D].

    Neighbours are found by |b|^2 - 2 q.b; the distances to those found are then computed from the differences,
    so that they have no cancellation error. At most `BLOCK_BYTES` of distances are held at a time.

    Returns:
        Squared Euclidean distances [M, count], ascending, and rows of the bank int64 [M, count].
    """
    norms = bank.square().sum(1)
    block = max(1, BLOCK_BYTES // (4 * len(bank)))
    rows = []
    for part in queries.split(block):
        distances = torch.addmm(norms, part, bank.T, alpha=-2)
        rows.append(distances.argmin(1, keepdim=True) if count == 1 else distances.topk(count, largest=False).indices)
    found = torch.cat(rows) if rows else torch.empty(0, count, dtype=torch.int64, device=bank.device)
    exact = torch.stack([(queries - bank[column]).square().sum(1) for column in found.T], 1)
    if count > 1:
        exact, order = exact.sort(1)
        found = found.gather(1, order)
    return exact, found
