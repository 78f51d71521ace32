"""The bank of PatchCore: a coreset of patch features, and where each comes from."""

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_ad.errors import UserError
from lightning_ad.methods.base import register_dynamic_buffer
from lightning_ad.statistics.coreset import (
    Keeper,
    coresets_of_parts,
    k_center_greedy,
    random_projection,
)
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import gather_rows, process_rank, sum_over_processes, take_rows
from lightning_ad.system.memory import gather_rows_from_file, in_memory, release
from lightning_ad.system.progress import counting, progress
from lightning_ad.system.threads import one_thread

SAMPLED = 2048  # rows of a bank that measure its scale


class PatchBank(nn.Module):
    """Patch features that stand for all patches of the training images.

    Attributes:
        bank: float32 [M, D].
        origin: int32 [M, 3]: the training image of each row, and the row and column of its grid.
        radius: the largest distance of a training patch to its nearest row, where the rows were selected: in the
            projection, if there was one. A bound of it, where parts were merged or the bank has grown.
        scale: the median distance of a row to the next, where it was measured; ensembles divide by it.
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
        """An empty bank."""
        self.bank, self.origin = self.bank.new_empty(0, 0), self.origin.new_empty(0, 3)

    def select(
        self,
        vectors: Tensor,
        images: Tensor,
        first: int,
        grid: tuple[int, int],
        count: int,
        projection: int | None,
        starting_points: int | None,
        seed: int,
        memory_bytes: int | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Selects the bank from what it holds and new vectors, over all processes; the same on all of them.

        Where what is selected from takes more than `memory_bytes` a process, coresets of parts are merged, and
        `radius` is a bound.

        Args:
            vectors: float32 [n, P, D] in main memory, of the images that this process has seen.
            images: int64 [n], their numbers, over all processes from `first` on without a gap.
            first: the number of images that the bank stands for.
            grid: height and width of the grid: P patches.
            count: of rows to select.
            projection: dimension of the random projection in which they are selected; None for none.
            starting_points: of the selection (see `k_center_greedy`).
            seed: of the projection and the start.
            memory_bytes: that the projections may take, on each process; None for no limit.
            keeper: of the selection as it goes on (`k_center_greedy`).

        Raises:
            UserError: where there are not as many vectors, the grid is another one than that of the bank, or the
                memory holds too few vectors.
        """
        held, patches = len(self.bank), grid[0] * grid[1]
        if held and self.bank.shape[1] != vectors.shape[2]:
            raise UserError(
                f"the bank's rows have {self.bank.shape[1]} numbers, those to be added {vectors.shape[2]}"
            )
        device, generator = self.bank.device, torch.Generator().manual_seed(seed)
        own = (held + (images - first)[:, None] * patches + torch.arange(patches)).flatten()
        matrix = (
            None
            if projection is None
            else random_projection(vectors.shape[2], projection, generator)
        )
        bound, numbers, left = 0.0, own, None
        if (size := _part(vectors, projection, memory_bytes, held, device)) is not None:
            left, bound = self._left(vectors, matrix, size, count, generator, starting_points)
            numbers = own[left]
        brought = self.bank[:0] if process_rank() else self.bank
        numbers = torch.cat([torch.arange(len(brought)), numbers])
        candidates = _candidates(brought, vectors, left, matrix, device)
        places, all_numbers = numbers, None
        if size is not None:  # a selection wants them without gaps
            all_numbers = gather_rows(numbers.to(device)).sort().values
            places = torch.searchsorted(all_numbers, numbers.to(device))
        with counting(count, "Selecting the coreset", "patch") as advance:
            chosen = k_center_greedy(
                candidates, count, generator, starting_points, places, advance, keeper
            )
        del candidates
        rows = (chosen.rows if all_numbers is None else all_numbers[chosen.rows]).cpu()
        old = rows < held
        mine = torch.isin(own, rows[~old]).nonzero().flatten()
        found = take_rows(
            gather_rows_from_file(vectors.flatten(0, 1), mine), own[mine], rows[~old], device
        ).cpu()
        bank = found.new_empty(len(rows), found.shape[1])
        bank[~old] = found
        image, place = (rows - held).div(patches, rounding_mode="floor"), (rows - held) % patches
        origin = torch.stack((first + image, place // grid[1], place % grid[1]), 1).int()
        if held:
            bank[old], origin[old] = self.bank.cpu()[rows[old]], self.origin.cpu()[rows[old]]
        self.bank, self.origin = bank.to(device), origin.to(device)
        self.radius.fill_(chosen.radius + max(bound, float(self.radius) if held else 0.0))

    def _left(
        self,
        vectors: Tensor,
        matrix: Tensor | None,
        size: int,
        count: int,
        generator: torch.Generator,
        starting_points: int | None,
    ) -> tuple[Tensor, float]:
        """Rows of vectors [n, P, D] that coresets of parts leave, and the largest radius of a part."""
        patches, device = vectors.shape[1], self.bank.device
        images = max(1, size // patches)
        rank_zero_info(
            f"Patch features, even projected, are more than model.memory_gb allows: coresets of {images} images each "
            "are merged. Patches are then up to about twice as far from the bank as without; scores change a little."
        )

        def read(start: int, stop: int) -> Tensor:
            part = vectors[start // patches : stop // patches]
            return _projected(part, matrix, device)

        with counting(None, "Selecting from parts", "patch") as advance:
            return coresets_of_parts(
                read,
                len(vectors) * patches,
                images * patches,
                count,
                generator,
                starting_points,
                advance,
            )

    def search(
        self, queries: Tensor, count: int = 1, without: range | None = None
    ) -> tuple[Tensor, Tensor]:
        """Squared distances [M, count] to the nearest rows, and the rows; `without` leaves out those of some images.

        Raises:
            UserError: where there are no others.
        """
        if self._norms is None or self._norms[0] is not self.bank:
            self._norms = (self.bank, self.bank.square().sum(1))
        norms = self._norms[1]
        if without is not None:
            own = (self.origin[:, 0] >= without.start) & (self.origin[:, 0] < without.stop)
            norms = norms.masked_fill(own, float("inf"))
            if not (others := int((~own).sum())):
                raise UserError(
                    "all patches of the bank are of one training image, and there is none to compare with"
                )
            count = min(count, others)
        return nearest_neighbours(queries, self.bank, min(count, len(self.bank)), norms)

    def measure_scale(self) -> None:
        """Sets `scale`."""
        sampled = torch.linspace(
            0, len(self.bank) - 1, min(SAMPLED, len(self.bank)), device=self.bank.device
        ).long()
        self.scale.copy_(
            self.search(self.bank[sampled], 2)[0][:, -1].sqrt().median().clamp(min=1e-12)
        )


def selected_numbers(projection: int | None) -> int:
    """Numbers that a selection holds of each vector beside it: its projection, and four of its own."""
    return 4 + (projection or 0)


def _part(
    vectors: Tensor,
    projection: int | None,
    memory_bytes: int | None,
    held: int,
    device: torch.device,
) -> int | None:
    """How many of vectors [n, P, D] may be held projected beside `held` rows, with what a selection keeps of each; None
    for all of them."""
    if memory_bytes is None:
        return None
    there = projection is None and in_memory(vectors) and not held  # nothing is made of them
    numbers = selected_numbers(projection if there else projection or vectors.shape[2])
    room = max(1, memory_bytes // (4 * numbers) - held)
    return room if sum_over_processes(int(len(vectors) * vectors.shape[1] > room), device) else None


def _candidates(
    old: Tensor, vectors: Tensor, left: Tensor | None, matrix: Tensor | None, device: torch.device
) -> Tensor:
    """Projections on the device: of an old bank [M, D], then of vectors [n, P, D], or of those of their rows `left`."""
    flat = vectors.flatten(0, 1)
    if left is None and not len(old):
        return _projected(vectors, matrix, device)
    parts = [
        *([old.cpu()] if len(old) else []),
        *([flat] if left is None else (flat[some] for some in left.split(vectors.shape[1]))),
    ]
    width = flat.shape[1] if matrix is None else matrix.shape[1]
    out, start = (
        torch.empty(len(old) + len(flat if left is None else left), width, device=device),
        0,
    )
    for part in parts:
        images = part.view(-1, vectors.shape[1], flat.shape[1]) if part is flat else part[None]
        out[start : start + len(part)] = _projected(images, matrix, device)
        release(vectors)
        start += len(part)
    return out


def _projected(vectors: Tensor, matrix: Tensor | None, device: torch.device) -> Tensor:
    """[n, P, D] to [n * P, d] on the device; image by image on one thread, which rounds the same on any number of
    processes."""
    if matrix is None:
        return vectors.flatten(0, 1).to(device)
    matrix, out = (
        matrix.to(device),
        torch.empty(len(vectors), vectors.shape[1], matrix.shape[1], device=device),
    )
    with one_thread():
        for image, target in zip(progress(vectors, "Projecting", unit="image"), out, strict=True):
            torch.mm(image.to(device), matrix, out=target)
            release(vectors)
    return out.flatten(0, 1)
