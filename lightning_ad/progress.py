"""One progress bar for every loop of ours that can take longer than a second."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

T = TypeVar("T")


class RunProgressBar(TQDMProgressBar):
    """That of a run; without the version of its first logger, which says nothing of the run's."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def progress(items: Iterable[T], description: str, unit: str = "it") -> Iterable[T]:
    """Iterates over `items` and shows how far it is, on the first process only; quiet for the first second.

    In a log file, where lines cannot be drawn over, it says so every ten seconds.
    """
    return _bar(description, unit, len(items) if isinstance(items, Sized) else None, items)


@contextmanager
def counting(total: int | None, description: str, unit: str = "it") -> Iterator[Callable[[int], object]]:
    """Shows how far something is that does several of `total` at a time, and tells how many to what it gives."""
    with _bar(description, unit, total, None) as bar:
        yield bar.update


def _bar(description: str, unit: str, total: int | None, items: Iterable[T] | None) -> tqdm:
    return tqdm(
        items,
        desc=description,
        unit=unit,
        total=total,
        delay=1,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        disable=rank_zero_only.rank != 0,
    )
