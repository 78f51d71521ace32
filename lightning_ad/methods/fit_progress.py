"""How far a fit-only fit has come, kept on disk so that one that was stopped goes on from there."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_ad.errors import UnreadableError, UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.system.checkpoints import write_whole
from lightning_ad.system.distributed import (
    gather_rows,
    process_rank,
    sum_over_processes,
    world_size,
)
from lightning_ad.system.stop_request import StopRequest

FORMAT = 3  # of what is saved: to be raised with any change of what a method keeps
SHARE = 20  # saving takes at most one part in so many of the time
IMAGES = "images"  # the series of saves of what was observed
ASKED = 8  # batches between two looks at the clock, which take a word between processes


class Resumable(Protocol):
    """A method whose unfinished fit can be kept; see `FitOnlyModule`."""

    cumulative: bool

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]: ...

    def restore(self, piece: dict[str, Any]) -> None: ...


class ProgressFiles:
    """Numbered saves in several series, each of which is there as a whole or not at all.

    Each process has files of its own.

    Args:
        folder: of the run's progress, the same on all processes.
        identity: what the fit is of; what was saved of something else is refused.
    """

    def __init__(self, folder: Path, identity: Sequence[object] = ()) -> None:
        self.shared = folder
        self.folder = folder / f"{process_rank()}-of-{world_size()}"
        self._identity = list(identity)

    def write(self, series: str, number: int, pieces: Iterable[dict[str, Any]]) -> None:
        """Saves pieces, one file each, as one number of a series.

        Raises:
            OSError: if that is not possible.
        """
        count = 0
        for piece in pieces:
            write_whole(piece, self._file(series, number, count))
            count += 1
        content = {"format": FORMAT, "pieces": count, "of": self._identity}
        write_whole(content, self._file(series, number))

    def read(self, series: str, number: int) -> Iterator[dict[str, Any]]:
        """Yields the pieces of a save.

        Raises:
            UserError: if it is of other images, or of another version.
            WeightsError: if one is damaged.
        """
        try:
            saved = read_state(self._file(series, number))
            self._check(saved)
            for piece in range(int(saved["pieces"])):
                yield read_state(self._file(series, number, piece))
        except UnreadableError:
            raise
        except WeightsError as error:
            raise WeightsError(f"{error}. Remove {self.shared} to read the images anew") from error

    def _check(self, saved: dict[str, Any]) -> None:
        if saved.get("format") != FORMAT:
            raise UserError(
                f"the progress in {self.shared} was written by another version of lightning_ad: go "
                "on with that one, or leave out --resume"
            )
        if saved["of"] != self._identity:
            raise UserError(
                f"the progress in {self.shared} was made from other training images, or they were "
                f"read in another order ({saved['of']}; now {self._identity}): leave out --resume, "
                "or put back what was there"
            )

    def numbers(self, series: str) -> list[int]:
        """Returns the numbers of this process's saves, ascending."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.glob(f"{series}-*.ckpt"):
            parts = path.stem.split("-")
            if len(parts) == 2:  # pieces have three
                found.append(int(parts[1]))
        return sorted(found)

    def remove(self, series: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._file(series, number).unlink()  # from now on it does not count
            for piece in self.folder.glob(f"{series}-{number:012d}-*.ckpt"):
                piece.unlink()

    def _file(self, series: str, number: int, piece: int | None = None) -> Path:
        name = f"{series}-{number:012d}"
        if piece is not None:
            name += f"-{piece:06d}"
        return self.folder / f"{name}.ckpt"


class FitProgress:
    """How far a fit has come: what was observed and selected, and how much of that is on disk.

    All processes save at the same numbers: each of the methods is called on all of them.

    Args:
        files: of this process.
        minutes: between two saves, or more if saving takes long.
        device: what the process group talks over.

    Attributes:
        batches_kept: of this process that an earlier fit has observed, and that need not be read.
        seconds_before: that the fit had taken before it was stopped.
        reads_again: whether the batch that comes now was observed by an earlier fit.
    """

    def __init__(self, files: ProgressFiles, minutes: float, device: torch.device) -> None:
        self._files = files
        self._minutes = minutes
        self._device = device
        self._wait = 60 * minutes
        self._saved = time.perf_counter()
        self._began = time.perf_counter()
        self._ended = False
        self._stop: StopRequest | None = None
        # Lightning wants a batch: the last one is read again, and not observed.
        self.batches_kept = max(0, self.last(IMAGES) - 1)
        self.seconds_before = 0.0
        self._batches = 0
        self._images = 0  # that this process has observed
        self._images_written = 0
        self.reads_again = False

    def resume(self, method: Resumable) -> int:
        """Gives a method what an earlier fit had observed; returns how many images that was."""
        self._began = time.perf_counter()
        self.seconds_before = 0.0
        self._batches = 0
        self._images = 0
        number = self.last(IMAGES)
        if number:
            for piece in self._saved_up_to(number, method.cumulative):
                method.restore(piece)
                self._images = piece["seen"]
                self.seconds_before = piece["seconds"]
            self._batches = self.batches_kept
        self._images_written = self._images
        self.reads_again = number > 0
        return self._images

    def _saved_up_to(self, number: int, cumulative: bool) -> Iterator[dict[str, Any]]:
        """Yields the pieces of all saves up to a number, in order.

        Of that number alone if each save holds all that came before it (`cumulative`).
        """
        for earlier in self._files.numbers(IMAGES):
            if earlier == number or (earlier < number and not cumulative):
                yield from self._files.read(IMAGES, earlier)

    def count_batch(self, method: Resumable, images: int) -> None:
        """Counts a batch, and saves if it is time; `images` is what the process has observed."""
        self._images = images
        self._batches += 1
        self.reads_again = False
        if (self._batches % ASKED == 0 or world_size() == 1) and not self._ended and self.due():
            self.save(method)

    def save(self, method: Resumable) -> bool:
        """Saves what was observed since the last time; returns whether all of it is saved."""
        if self._ended:
            return False
        if self._batches <= self.last(IMAGES):
            return True
        counts = {"seen": self._images, "seconds": self._seconds()}
        pieces = ({**piece, **counts} for piece in method.partial_state(self._images_written))
        if not self.write(IMAGES, self._batches, pieces):
            self.end()
            return False
        self._images_written = self._images
        if method.cumulative:
            self.prune(IMAGES)
        return True

    def save_or_end(self, method: Resumable) -> None:
        """Saves what was observed, before the method gives back a part of it.

        Only now can all of it be saved. If it is too early for that, the fit goes on without.
        """
        wanted = not self._ended and (self.last(IMAGES) > 0 or self.due())
        if not (wanted and self.save(method)):
            self.end()

    def end(self) -> None:
        """Saves nothing more."""
        self._ended = True

    def selection_saver(self, method: Resumable, series: str) -> "ProgressSaver | None":
        """Returns what saves a selection beside what was observed; None after the end."""
        if self._ended:
            return None
        return ProgressSaver(self, series, partial(self.save, method))

    def listen_to(self, stop: StopRequest) -> None:
        """Lets a selection end early if a stop is requested."""
        self._stop = stop

    @property
    def stop_requested(self) -> bool:
        """Returns whether any process was asked to stop; all of them must ask."""
        return self._stop is not None and self._stop.made_anywhere(self._device)

    def stop(self, where: str) -> None:
        """Ends the run after a requested stop.

        Raises:
            Preempted: always; the message says where it was.
        """
        assert self._stop is not None
        self._stop.stop(where)

    def due(self) -> bool:
        """Returns whether it is time to save, on any process; all of them must ask."""
        now = time.perf_counter() - self._saved >= self._wait
        return sum_over_processes(int(now), self._device) > 0

    def write(self, series: str, number: int, pieces: Iterable[dict[str, Any]]) -> bool:
        """Saves pieces as one number of a series.

        Returns:
            Whether all processes could; otherwise there is a warning, and the fit goes on.
        """
        began = time.perf_counter()
        failed = False
        try:
            self._files.write(series, number, pieces)
        except OSError as error:
            failed = True
            warnings.warn(
                f"the progress of the fit cannot be kept, and it goes on without: {error}",
                stacklevel=2,
            )
        self._saved = time.perf_counter()
        self._wait = max(60 * self._minutes, SHARE * (self._saved - began))
        return sum_over_processes(int(failed), self._device) == 0

    def last(self, series: str) -> int:
        """Returns the highest number that all processes have saved, 0 for none.

        What a process has beyond it is removed.
        """
        numbers = self._files.numbers(series)
        own = torch.tensor([max(numbers, default=0)], device=self._device)
        common = int(gather_rows(own).min())
        self._files.remove(series, [number for number in numbers if number > common])
        return common

    def read_last(self, series: str) -> dict[str, Tensor] | None:
        """Returns the first piece of the last save that all processes have; None without one."""
        number = self.last(series)
        if not number:
            return None
        return next(self._files.read(series, number))

    def prune(self, series: str) -> None:
        """Removes all but the last two saves, one of which all processes have."""
        self._files.remove(series, self._files.numbers(series)[:-2])

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self._began


class ProgressSaver:
    """Saves a selection while it goes on (`statistics.coreset.SelectionSaver`).

    Args:
        progress: of the fit.
        series: of the selection's saves.
        save_observed: saves what the selection is made from; returns whether it could.
    """

    def __init__(
        self, progress: FitProgress, series: str, save_observed: Callable[[], bool]
    ) -> None:
        self._progress = progress
        self._series = series
        self._save_observed = save_observed
        self._stopping = False

    def due(self) -> bool:
        """Returns whether it is time to save, or to stop, on any process."""
        self._stopping = self._progress.stop_requested
        return self._stopping or self._progress.due()

    def save(self, count: int, state: dict[str, Tensor]) -> None:
        """Saves the state with `count` centres, and stops if that was requested."""
        saved = self._save_observed() and self._progress.write(self._series, count, [state])
        if saved:
            self._progress.prune(self._series)
        if self._stopping:
            then = "goes on from there" if saved else "begins anew"
            self._progress.stop(f"after {count} patches were selected: --resume {then}")

    def saved_state(self) -> dict[str, Tensor] | None:
        """Returns what all processes have saved last."""
        return self._progress.read_last(self._series)
