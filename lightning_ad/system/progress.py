"""One progress bar for every loop of ours that can take longer than a second."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], description: str, unit: str = "it") -> Iterable[T]:
    """Iterates over `items` and shows a bar on the first process; quiet for the first second.

    In a log file, where lines cannot be drawn over, it writes one every ten seconds.
    """
    total = len(items) if isinstance(items, Sized) else None
    return _bar(description, unit, total, items)


@contextmanager
def counting(
    total: int | None, description: str, unit: str = "it"
) -> Iterator[Callable[[int], object]]:
    """Shows a bar for work that advances by several of `total` at a time.

    Yields:
        A function to call with how many more are done.
    """
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
