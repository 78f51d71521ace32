"""Which row is read when: a function of (seed, epoch, process) alone, so that a resumed run reads the same."""

from collections.abc import Iterator, Sized
from typing import NamedTuple

import torch
from torch.utils.data import DistributedSampler


class RowKey(NamedTuple):
    """What a data set is asked for.

    Attributes:
        index: the row.
        epoch: of training, so that a sample is a function of (seed, epoch, index).
        padding: the row is there only to give all processes equally many; it must not be counted.
    """

    index: int
    epoch: int = 0
    padding: bool = False


MIXED = 4  # images whose tiles take turns in training
HELD_OUT = (
    2**31
)  # the epoch of sets that are not trained on: their synthetic anomalies stay the same


class KeySampler(DistributedSampler):
    """Yields `RowKey`s; in several processes every row once, rows that fill up marked as `padding`.

    Lightning leaves a `DistributedSampler` as it is, and calls its `set_epoch`. Process r of n takes the places
    r, r + n, ... of the order, so that a batch of n processes holds the rows of one n times as large.

    Args:
        data: whose rows these are.
        shuffle: by (seed, epoch).
        seed: of the order.
        rank: r.
        world_size: n.
        tiles: each image's rows. `MIXED` images are read side by side, so that few need to be held at a time.
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
    ) -> None:
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.tiles = tiles
        self.done = (
            0  # rows of this process that the next pass leaves out: a resumed run has read them
        )
        self.start = (
            0  # rows of this process that every pass leaves out, and its length does not count
        )

    def __len__(self) -> int:
        return self.num_samples - self.start

    def __iter__(self) -> Iterator[RowKey]:
        done, self.done = self.done + self.start, 0
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            images = torch.randperm(count // self.tiles, generator=generator)
            tiles = [torch.randperm(self.tiles, generator=generator) for _ in images]
            rows = images[:, None] * self.tiles + torch.stack(tiles)
            order = torch.cat([turns.T.flatten() for turns in rows.split(MIXED)]).tolist()
        else:
            order = list(range(count))
        for place in range(
            self.rank + done * self.num_replicas, self.total_size, self.num_replicas
        ):
            yield RowKey(
                order[place % count], self.epoch if self.shuffle else HELD_OUT, place >= count
            )
