"""Room for the vectors of many images, whatever order and process they come in."""

import torch
from torch import Tensor

from lightning_ad.statistics.distributed import collect_rows, world_size


class VectorStore:
    """Vectors [P, D] of each image, in main memory, allocated once.

    Args:
        images: of the whole training set, over all processes.
    """

    def __init__(self, images: int) -> None:
        self._capacity = -(-images // world_size())
        self._vectors: Tensor | None = None
        self._index = torch.empty(0, dtype=torch.int64)

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Keeps the vectors [B, P, D] of the images `index` [B]; each image comes once."""
        if self._vectors is None:
            self._vectors = torch.empty(self._capacity, *vectors.shape[1:], dtype=vectors.dtype)
        start = len(self._index)
        self._vectors[start : start + len(index)] = vectors.cpu()
        self._index = torch.cat([self._index, index.cpu()])

    def collect(self, device: torch.device) -> Tensor | None:
        """All vectors [N, P, D] in the order of the images on the first process; None on the others.

        The store is empty afterwards. `device` is what the process group talks over.
        """
        vectors, index = self._vectors, self._index
        self._vectors, self._index = None, self._index[:0]
        if vectors is None:
            raise RuntimeError("no image was observed")
        parts = collect_rows(vectors[: len(index)], device)
        indices = collect_rows(index, device)
        if parts is None or indices is None:
            return None
        if len(parts) == 1:
            return _sort_rows(parts[0], indices[0])
        order = torch.cat(indices)
        rank_of = order.argsort().argsort()
        out = torch.empty(len(order), *vectors.shape[1:], dtype=vectors.dtype)
        for part, rows in zip(parts, rank_of.split([len(p) for p in parts]), strict=True):
            out[rows] = part
        return out


def _sort_rows(rows: Tensor, keys: Tensor) -> Tensor:
    """Sorts rows by their keys in place, cycle by cycle: there may be no room for a second copy."""
    order = keys.argsort().tolist()
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start]:
            continue
        held, place = rows[start].clone(), start
        while (source := order[place]) != start:
            rows[place] = rows[source]
            done[place], place = True, source
        rows[place], done[place] = held, True
    return rows
