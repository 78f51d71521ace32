"""The order of the rows: a function of (seed, epoch, process), so that a run can be resumed."""

from collections.abc import Iterator, Sized
from typing import NamedTuple

import torch
from torch.utils.data import DistributedSampler

MIXED = 4  # images whose tiles take turns in training
# The epoch of sets that are not trained on: their synthetic anomalies never change.
HELD_OUT = 2**31


class RowKey(NamedTuple):
    """A request for one row of a data set.

    Attributes:
        index: the row.
        epoch: the epoch of training, so that a sample is a function of (seed, epoch, index).
        padding: true if the row only gives all processes the same number of rows; it must not be
            counted.
    """

    index: int
    epoch: int = 0
    padding: bool = False


class KeySampler(DistributedSampler):
    """Yields `RowKey`s: in several processes every row once, and marked `padding` to fill up.

    Lightning keeps a `DistributedSampler` as it is and calls its `set_epoch`. Process r of n takes
    the places r, r + n, ... of the order, so that a batch on n processes holds the rows of a batch
    n times as large on one.

    Args:
        data: the data set to sample from.
        shuffle: shuffle by (seed, epoch).
        seed: the seed of the order.
        rank: the number of this process, r.
        world_size: the number of processes, n.
        tiles: rows of each image. The tiles of `MIXED` images take turns, so that few images need
            to be in memory at a time.
        start: rows of this process that every pass leaves out; its length does not count them.
    """

    def __init__(
        self,
        data: Sized,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        tiles: int = 1,
        start: int = 0,
    ) -> None:
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.tiles = tiles
        self._start = start
        self._read_before = 0  # rows that the next pass leaves out

    def leave_out_once(self, rows: int) -> None:
        """Leaves these rows of this process out of the next pass: a resumed run has read them."""
        self._read_before = rows

    def from_the_start(self) -> "KeySampler":
        """Returns a sampler of all rows of this process, in the order of this epoch."""
        sampler = KeySampler(
            self.dataset,  # type: ignore[arg-type]
            shuffle=self.shuffle,
            seed=self.seed,
            rank=self.rank,
            world_size=self.num_replicas,
            tiles=self.tiles,
        )
        sampler.set_epoch(self.epoch)
        return sampler

    def __len__(self) -> int:
        return self.num_samples - self._start

    def __iter__(self) -> Iterator[RowKey]:
        left_out = self._read_before + self._start
        self._read_before = 0
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            order = self._shuffled(count)
            epoch = self.epoch
        else:
            order = list(range(count))
            epoch = HELD_OUT
        first = self.rank + left_out * self.num_replicas
        for place in range(first, self.total_size, self.num_replicas):
            yield RowKey(order[place % count], epoch, padding=place >= count)

    def _shuffled(self, count: int) -> list[int]:
        """Returns the rows of shuffled images, the shuffled tiles of `MIXED` images in turn."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        images = torch.randperm(count // self.tiles, generator=generator)
        tiles = [torch.randperm(self.tiles, generator=generator) for _ in images]
        rows = images[:, None] * self.tiles + torch.stack(tiles)
        in_turn = [group.T.flatten() for group in rows.split(MIXED)]
        return torch.cat(in_turn).tolist()
