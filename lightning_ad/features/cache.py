"""Features of images that are seen again unchanged, kept within a budget of main memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class FeatureCache:
    """Features by the row of the data set; valid for one network, one geometry and one precision.

    Rows are kept in the order in which they are first seen, until the budget is spent. Others are
    computed each time.

    Args:
        gib: the budget of this process, in GiB.
    """

    def __init__(self, gib: float) -> None:
        self.room = int(gib * 2**30)
        self._rows: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, index: Sequence[int], compute: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Returns features [B, ...] of the rows `index` [B].

        Args:
            index: rows of the data set; a negative one is never kept.
            compute: takes the positions in `index`, [n], of rows that are not kept, and returns
                their features [n, ...], each of one shape.

        Returns:
            Features in main memory if all rows were kept, else wherever `compute` leaves its own.
        """
        known = {}
        missing = []
        for place, row in enumerate(index):
            if row in self._rows:
                known[place] = self._rows[row]
            else:
                missing.append(place)
        if not missing:
            return [torch.stack(rows) for rows in zip(*known.values(), strict=True)]
        fresh = compute(torch.tensor(missing))
        self._keep([index[place] for place in missing], fresh)
        joined = []
        for number, rows in enumerate(fresh):
            whole = rows.new_empty(len(index), *rows.shape[1:])
            whole[missing] = rows
            for place, kept in known.items():
                whole[place] = kept[number]
            joined.append(whole)
        return joined

    def _keep(self, index: Sequence[int], features: list[Tensor]) -> None:
        for place, row in enumerate(index):
            features_of_row = [feature[place] for feature in features]
            size = sum(feature.nbytes for feature in features_of_row)
            if row >= 0 and row not in self._rows and size <= self.room:
                self._rows[row] = [feature.detach().cpu().clone() for feature in features_of_row]
                self.room -= size
