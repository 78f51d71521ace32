"""The bank of PatchCore: a coreset of patch features, and where each comes from."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_ad.errors import CapacityError, UserError
from lightning_ad.methods.dynamic_buffers import register_dynamic_buffer
from lightning_ad.statistics.coreset import (
    Coreset,
    SelectionSaver,
    coresets_of_parts,
    k_center_greedy,
    random_projection,
)
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import gather_rows, process_rank, sum_over_processes, take_rows
from lightning_ad.system.memory import gather_rows_from_file, in_memory, release
from lightning_ad.system.progress import counting, progress
from lightning_ad.system.threads import one_thread

SCALE_SAMPLE = 2048  # rows of a bank that its scale is measured with


class TrainingPatches(NamedTuple):
    """The patch features of the training images that this process has seen.

    Attributes:
        vectors: float32 [n, P, D] in main memory, or mapped from a file.
        images: int64 [n], the images' numbers: over all processes from `first` on without a gap.
        first: how many images the bank already stands for.
        grid: height and width of the grid: P patches.
    """

    vectors: Tensor
    images: Tensor
    first: int
    grid: tuple[int, int]

    def numbers(self, start: int) -> Tensor:
        """Numbers all patches of all processes from `start` on; returns this process's, [n P]."""
        patches = self.vectors.shape[1]
        first_patches = start + (self.images - self.first) * patches
        return (first_patches[:, None] + torch.arange(patches)).flatten()

    def origin(self, numbers: Tensor) -> Tensor:
        """Returns image, row and column [m, 3] of patches [m] that are numbered from 0 on."""
        height, width = self.grid
        image = numbers.div(height * width, rounding_mode="floor")
        place = numbers % (height * width)
        return torch.stack((self.first + image, place // width, place % width), 1).int()


class SelectionOptions(NamedTuple):
    """How a bank is selected.

    Attributes:
        count: number of rows to select.
        projection: dimension of the random projection in which they are selected; None for none.
        starting_points: of the selection (see `k_center_greedy`).
        seed: of the projection and the start.
        memory_bytes: what the projections may take on each process; None for no limit.
    """

    count: int
    projection: int | None
    starting_points: int | None
    seed: int
    memory_bytes: int | None = None


class PatchBank(nn.Module):
    """Patch features that stand for all patches of the training images.

    Attributes:
        bank: float32 [M, D].
        origin: int32 [M, 3]: the training image of each row, and the row and column of its grid.
        radius: the largest distance of a training patch to its nearest row, where the rows were
            selected: in the projection, if there was one. An upper bound of it if parts were merged
            or the bank was extended.
        scale: the median distance of a row to the next, if it was measured; ensembles divide by it.
    """

    bank: Tensor
    origin: Tensor
    radius: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        register_dynamic_buffer(self, "bank", torch.empty(0, 0))
        register_dynamic_buffer(self, "origin", torch.empty(0, 3, dtype=torch.int32))
        self.register_buffer("radius", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))
        self._norms: tuple[Tensor, Tensor] | None = None

    def forget(self) -> None:
        """Empties the bank."""
        self.bank = self.bank.new_empty(0, 0)
        self.origin = self.origin.new_empty(0, 3)

    def select(
        self,
        patches: TrainingPatches,
        options: SelectionOptions,
        saver: SelectionSaver | None = None,
    ) -> None:
        """Selects the bank from its rows and new patches of all processes; the same on all of them.

        If what is selected from takes more than `memory_bytes` a process, coresets of parts are
        merged, and `radius` is an upper bound.

        Args:
            patches: of this process.
            options: of the selection, the same on all processes.
            saver: saves the selection while it runs (`k_center_greedy`).

        Raises:
            UserError: if there are not as many patches, the bank's rows are of another length, or
                memory holds too few patches.
        """
        held = len(self.bank)
        if held and self.bank.shape[1] != patches.vectors.shape[2]:
            raise UserError(
                f"the bank's rows have {self.bank.shape[1]} numbers, "
                f"those to be added {patches.vectors.shape[2]}"
            )
        selection = _BankSelection(self.bank, patches, options)
        coreset, part_radius = selection.run(saver)
        self._fill(coreset.rows.cpu(), patches)
        if held:
            part_radius = max(part_radius, float(self.radius))
        self.radius.fill_(coreset.radius + part_radius)

    def search(
        self, queries: Tensor, count: int = 1, without: range | None = None
    ) -> tuple[Tensor, Tensor]:
        """Finds the nearest rows of queries [M, D].

        Args:
            queries: [M, D].
            count: of rows.
            without: training images whose rows are left out.

        Returns:
            Squared distances [M, count], and rows.

        Raises:
            UserError: if all rows are left out.
        """
        if self._norms is None or self._norms[0] is not self.bank:
            self._norms = (self.bank, self.bank.square().sum(1))
        norms = self._norms[1]
        if without is not None:
            excluded = (self.origin[:, 0] >= without.start) & (self.origin[:, 0] < without.stop)
            norms = norms.masked_fill(excluded, float("inf"))
            others = int((~excluded).sum())
            if not others:
                raise UserError(
                    "all patches of the bank are of one training image, "
                    "and there is none to compare it with"
                )
            count = min(count, others)
        return nearest_neighbours(queries, self.bank, min(count, len(self.bank)), norms)

    def measure_scale(self) -> None:
        """Sets `scale` to the median distance of a row to the next one."""
        rows = len(self.bank)
        sample = torch.linspace(0, rows - 1, min(SCALE_SAMPLE, rows), device=self.bank.device)
        squared, _ = self.search(self.bank[sample.long()], 2)
        self.scale.copy_(squared[:, -1].sqrt().median().clamp(min=1e-12))

    def _fill(self, rows: Tensor, patches: TrainingPatches) -> None:
        """Replaces the bank by the selected rows.

        Args:
            rows: numbers [M], first of the rows that the bank holds, then of the patches.
            patches: of this process.
        """
        held = len(self.bank)
        device = self.bank.device
        from_bank = rows < held
        wanted = rows[~from_bank]
        numbers = patches.numbers(held)
        own = torch.isin(numbers, wanted).nonzero().flatten()
        vectors = gather_rows_from_file(patches.vectors.flatten(0, 1), own)
        found = take_rows(vectors, numbers[own], wanted, device).cpu()
        bank = found.new_empty(len(rows), found.shape[1])
        bank[~from_bank] = found
        origin = patches.origin(rows - held)
        if held:
            bank[from_bank] = self.bank.cpu()[rows[from_bank]]
            origin[from_bank] = self.origin.cpu()[rows[from_bank]]
        self.bank = bank.to(device)
        self.origin = origin.to(device)


class _BankSelection:
    """One selection from the rows of a bank and the patches of all processes."""

    def __init__(self, bank: Tensor, patches: TrainingPatches, options: SelectionOptions) -> None:
        self.options = options
        self.device = bank.device
        self.held = len(bank)
        self.bank = bank[:0] if process_rank() else bank  # each row is selected from once
        self.vectors = patches.vectors
        self.numbers = patches.numbers(len(bank))
        self.generator = torch.Generator().manual_seed(options.seed)
        self.length = patches.vectors.shape[2]  # of what is selected from
        self.matrix: Tensor | None = None
        if options.projection is not None:
            self.matrix = random_projection(self.length, options.projection, self.generator)
            self.length = options.projection

    def run(self, saver: SelectionSaver | None) -> tuple[Coreset, float]:
        """Returns the coreset, and the largest radius of a part that was merged; 0 for none."""
        room = self._room()
        if room is None:
            return self._select(None, self._with_bank(self.numbers), saver), 0.0
        left, radius = self._reduce(room)
        numbers = self._with_bank(self.numbers[left]).to(self.device)
        all_numbers = gather_rows(numbers).sort().values
        places = torch.searchsorted(all_numbers, numbers)  # numbers without gaps
        coreset = self._select(left, places, saver)
        return coreset._replace(rows=all_numbers[coreset.rows]), radius

    def _room(self) -> int | None:
        """Returns how many patches may be held projected on each process; None for all of them."""
        memory_bytes = self.options.memory_bytes
        if memory_bytes is None:
            return None
        copied_length: int | None = self.length
        if self.matrix is None and in_memory(self.vectors) and not self.held:
            copied_length = None  # they are selected from where they are
        vector_bytes = 4 * selected_numbers(copied_length)
        room = max(1, memory_bytes // vector_bytes - self.held)
        too_many = self.vectors.shape[:2].numel() > room
        if sum_over_processes(int(too_many), self.device):
            return room
        return None

    def _reduce(self, room: int) -> tuple[Tensor, float]:
        """Merges coresets of parts of at most `room` patches.

        Returns:
            The rows of this process's patches that are left, and the largest radius of a part.

        Raises:
            UserError: if the rows to select are more than can be held.
        """
        patches = self.vectors.shape[1]
        images = max(1, room // patches)
        rank_zero_info(
            "Patch features, even projected, are more than model.memory_gb allows: coresets of "
            f"{images} images each are merged. Patches are then up to about twice as far from the "
            "bank as without; scores change a little."
        )

        def read(start: int, stop: int) -> Tensor:
            part = self.vectors[start // patches : stop // patches]
            return _projected(part, self.matrix, self.device)

        with counting(None, "Selecting from parts", "patch") as advance:
            try:
                return coresets_of_parts(
                    read,
                    total=len(self.vectors) * patches,
                    size=images * patches,
                    count=self.options.count,
                    generator=self.generator,
                    starting_points=self.options.starting_points,
                    advance=advance,
                )
            except CapacityError as error:
                raise UserError(
                    f"{error.wanted} vectors are to be selected, and model.memory_gb leaves room "
                    f"for {error.capacity}; raise it, or lower model.coreset_ratio"
                ) from error

    def _select(self, left: Tensor | None, rows: Tensor, saver: SelectionSaver | None) -> Coreset:
        """Selects from the bank's rows and the patches.

        Args:
            left: rows of this process's patches that are selected from; None for all.
            rows: the numbers of the bank's rows and of these patches among those of all processes.
            saver: saves the selection while it runs.
        """
        candidates = self._candidates(left)
        with counting(self.options.count, "Selecting the coreset", "patch") as advance:
            return k_center_greedy(
                candidates,
                self.options.count,
                self.generator,
                self.options.starting_points,
                rows,
                advance,
                saver,
            )

    def _with_bank(self, numbers: Tensor) -> Tensor:
        """Puts the numbers of the bank's rows before those of patches."""
        return torch.cat([torch.arange(len(self.bank)), numbers])

    def _candidates(self, left: Tensor | None) -> Tensor:
        """Returns the projections of the bank's rows and of the patches `left`, on the device."""
        if left is None and not len(self.bank):
            return _projected(self.vectors, self.matrix, self.device)
        count = len(self.bank)
        if left is None:
            count += self.vectors.shape[:2].numel()
        else:
            count += len(left)
        candidates = torch.empty(count, self.length, device=self.device)
        start = 0
        for part in self._parts(left):
            projected = _projected(part, self.matrix, self.device)
            candidates[start : start + len(projected)] = projected
            release(self.vectors)
            start += len(projected)
        return candidates

    def _parts(self, left: Tensor | None) -> Iterator[Tensor]:
        """Yields the bank's rows and the patches `left` by parts [n, P, D]."""
        if len(self.bank):
            yield self.bank.cpu()[None]
        if left is None:
            yield self.vectors
            return
        flat = self.vectors.flatten(0, 1)
        for rows in left.split(self.vectors.shape[1]):
            yield flat[rows][None]


def selected_numbers(projection: int | None) -> int:
    """Returns how many numbers a selection holds of each vector: its projection, and four more."""
    return 4 + (projection or 0)


def _projected(vectors: Tensor, matrix: Tensor | None, device: torch.device) -> Tensor:
    """Projects [n, P, D] to [n * P, d] on the device.

    Image by image on one thread, which rounds the same on any number of processes.
    """
    if matrix is None:
        return vectors.flatten(0, 1).to(device)
    matrix = matrix.to(device)
    shape = (len(vectors), vectors.shape[1], matrix.shape[1])
    projected = torch.empty(shape, device=device)
    with one_thread():
        images = progress(vectors, "Projecting", unit="image")
        for image, target in zip(images, projected, strict=True):
            torch.mm(image.to(device), matrix, out=target)
            release(vectors)
    return projected.flatten(0, 1)
