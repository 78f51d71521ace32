"""Coresets of parts, for vectors that memory does not hold together: what they leave is selected from again."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_ad.errors import UserError
from lightning_ad.statistics.coreset import k_center_greedy
from lightning_ad.statistics.distributed import gather_rows, rank, world_size


def coresets_of_parts(
    read: Callable[[int, int], Tensor],
    total: int,
    size: int,
    count: int,
    generator: torch.Generator,
    starting_points: int | None = 10,
    advance: Callable[[int], object] = lambda selected: None,
) -> tuple[Tensor, float]:
    """Selects `count` vectors of each part, or as many as can be held of all parts together.

    A selection of `count` of what is left has a radius of at most its own and the largest one here: about twice that
    of a selection of all vectors. The parts are those of a process: they differ with the number of processes.

    Args:
        read: the vectors [m, D] of this process from a row to another, the same D on all processes.
        total: of this process's vectors.
        size: of a part; as many vectors can be held on each process (in the mean over processes, of what is left).
        count: of vectors that will be selected in the end, over all processes.
        generator: on the CPU, the same on all processes.
        starting_points: as of `k_center_greedy`.
        advance: is told how many more vectors a part has been reduced to.

    Returns:
        The rows int64 [k] of this process that are left, ascending, and the largest radius of a part.

    Raises:
        UserError: where `count` vectors cannot be held.
    """
    if count > size * world_size():
        raise UserError(
            f"{count} vectors are to be selected, and model.memory_gb leaves room for {size * world_size()}; raise it, "
            "or lower model.coreset_ratio"
        )
    device = read(0, min(1, total)).device
    totals = gather_rows(torch.tensor([total], device=device)).cpu()
    left, radius = [torch.empty(0, dtype=torch.int64)], 0.0
    for start, wanted in zip(range(0, int(totals.max()), size), _shares(totals, size, count), strict=True):
        lengths = (totals - start).clamp(0, size)
        first, length = int(lengths[: rank()].sum()), int(lengths[rank()])
        numbers = torch.arange(first, first + length, device=device)
        vectors = read(min(start, total), min(start + size, total))
        chosen = k_center_greedy(vectors, wanted, generator, starting_points, numbers, advance)
        del vectors  # before the next ones are read
        own = chosen.rows[(chosen.rows >= first) & (chosen.rows < first + length)]
        left.append((own - first + start).sort().values.cpu())
        radius = max(radius, chosen.radius)
    return torch.cat(left), radius


def _shares(totals: Tensor, size: int, count: int) -> list[int]:
    """How many vectors are left of each part: together at least `count`, and no more than can be held."""
    parts = [int((totals - start).clamp(0, size).sum()) for start in range(0, int(totals.max()), size)]
    shares = [min(count, size * len(totals) // len(parts), length) for length in parts]
    missing = count - sum(shares)
    for part, length in enumerate(parts):  # what rounding and short parts have left open
        more = max(0, min(length - shares[part], missing))
        shares[part] += more
        missing -= more
    return shares
