"""What a fit-only fit has done so far, on disk, so that one that was stopped goes on from there."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_ad.errors import UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.system.checkpoints import write_whole
from lightning_ad.system.distributed import (
    gather_rows,
    process_rank,
    sum_over_processes,
    world_size,
)

FORMAT = 3  # of what is saved: to be raised with any change of what a method keeps
SHARE = 20  # saving takes at most one part in so many of the time


class FitProgress:
    """Numbered saves in several series, each of which is there as a whole or not at all.

    Each process has files of its own; all of them save at the same numbers.

    Args:
        folder: of the run's progress, the same on all processes.
        minutes: between two saves, or more where saving takes long.
        device: what the process group talks over.
        of: what the fit is of; what was saved of something else is refused.
    """

    def __init__(
        self, folder: Path, minutes: float, device: torch.device, of: Sequence[object] = ()
    ) -> None:
        self.shared, self.folder = folder, folder / f"{process_rank()}-of-{world_size()}"
        self._minutes, self._device, self._of = minutes, device, list(of)
        self._wait, self._saved = 60 * minutes, time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to save; all processes must ask, and hear the same."""
        now = time.perf_counter() - self._saved >= self._wait
        return sum_over_processes(int(now), self._device) > 0

    def write(self, series: str, number: int, pieces: Iterable[dict[str, Any]]) -> bool:
        """Saves pieces, one file each, as one number of a series.

        Returns:
            Whether all processes could; else there is a warning, and the fit is to go on without.
        """
        began, count, failed = time.perf_counter(), 0, None
        try:
            for piece in pieces:
                write_whole(piece, self._file(series, number, count))
                count += 1
            write_whole(
                {"format": FORMAT, "pieces": count, "of": self._of}, self._file(series, number)
            )
        except OSError as error:
            failed = error
            warnings.warn(
                f"what the fit has done cannot be kept, and it goes on without: {error}",
                stacklevel=2,
            )
        self._saved = time.perf_counter()
        self._wait = max(60 * self._minutes, SHARE * (self._saved - began))
        return sum_over_processes(int(failed is not None), self._device) == 0

    def last(self, series: str) -> int:
        """The highest number that all processes have saved, 0 for none; what is beyond it is forgotten."""
        own = torch.tensor([max(self._numbers(series), default=0)], device=self._device)
        common = int(gather_rows(own).min())
        self._remove(series, [number for number in self._numbers(series) if number > common])
        return common

    def read(self, series: str, number: int) -> Iterator[dict[str, Any]]:
        """The pieces of a save.

        Raises:
            UserError: where it is of other images, or of another version.
            WeightsError: where one is damaged.
        """
        try:
            saved = read_state(self._file(series, number))
            if saved.get("format") != FORMAT:
                raise UserError(
                    f"what {self.shared} keeps was written by another version of lightning_ad: go on with that one, or "
                    "leave out --resume"
                )
            if saved["of"] != self._of:
                raise UserError(
                    f"what {self.shared} keeps was made from other training images, or read in another order "
                    f"({saved['of']}; now {self._of}): leave out --resume, or put back what was there"
                )
            for piece in range(int(saved["pieces"])):
                yield read_state(self._file(series, number, piece))
        except WeightsError as error:
            raise WeightsError(f"{error}. Remove {self.shared} to read the images anew") from error

    def up_to(self, series: str, number: int, cumulative: bool) -> Iterator[dict[str, Any]]:
        """The pieces of all saves up to a number, in order; of that alone, where each holds the ones before."""
        for earlier in self._numbers(series):
            if earlier == number or (earlier < number and not cumulative):
                yield from self.read(series, earlier)

    def keep_two(self, series: str) -> None:
        """Forgets all but the last two, one of which all processes have."""
        self._remove(series, self._numbers(series)[:-2])

    def _numbers(self, series: str) -> list[int]:
        found = self.folder.glob(f"{series}-*.ckpt") if self.folder.is_dir() else []
        return sorted(int(parts[1]) for path in found if len(parts := path.stem.split("-")) == 2)

    def _file(self, series: str, number: int, piece: int | None = None) -> Path:
        return (
            self.folder / f"{series}-{number:012d}{'' if piece is None else f'-{piece:06d}'}.ckpt"
        )

    def _remove(self, series: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._file(series, number).unlink()  # it counts no more
            for piece in self.folder.glob(f"{series}-{number:012d}-*.ckpt"):
                piece.unlink()


class SelectionKeeper:
    """Keeps a selection of a fit as it goes on (`statistics.coreset.Keeper`).

    Args:
        progress: of the fit.
        series: of the selection's saves.
        before: writes what the selection is made from, and says whether it could; called before each save.
        told: whether any process was told to stop; all of them ask.
        stop: ends the fit, with where it was.
    """

    def __init__(
        self,
        progress: FitProgress,
        series: str,
        before: Callable[[], bool],
        told: Callable[[], bool],
        stop: Callable[[str], object],
    ) -> None:
        self.progress, self.series, self.before = progress, series, before
        self.told, self.stop = told, stop
        self._stopping = False

    def due(self) -> bool:
        """Whether it is time, on any process."""
        self._stopping = self.told()
        return self._stopping or self.progress.due()

    def keep(self, count: int, state: dict[str, Tensor]) -> None:
        """Writes the state of `count` centres; then stops where that was asked for."""
        kept = self.before() and self.progress.write(self.series, count, [state])
        if kept:
            self.progress.keep_two(self.series)
        if self._stopping:
            self.stop(
                f"after {count} patches were selected: --resume {'goes on from there' if kept else 'begins anew'}"
            )

    def held(self) -> dict[str, Tensor] | None:
        """What all processes have written last."""
        number = self.progress.last(self.series)
        return next(self.progress.read(self.series, number)) if number else None
