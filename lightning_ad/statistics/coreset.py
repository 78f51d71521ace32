"""Greedy k-centre selection: few vectors so that every vector has one near. On one process or many, CPU or CUDA."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_ad.errors import UserError
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import (
    broadcast,
    gather_rows,
    process_rank,
    sum_over_processes,
    take_rows,
    world_size,
)

POOL = 1024  # candidates of each process that are looked at together
BLOCK_BYTES = 2 * 2**20  # of distances held at a time: they stay in a core's cache
ROUNDING = (
    4 * torch.finfo(torch.float32).eps
)  # error of a product of two vectors, over the root of their length


class Selection(NamedTuple):
    """What was selected.

    Attributes:
        rows: int64 [count], in order of selection; numbers of vectors over all processes.
        radius: the largest Euclidean distance of any vector to the nearest selected one, whatever the start.
    """

    rows: Tensor
    radius: float


class Keeper(Protocol):
    """Keeps a selection as it goes on, for one that is stopped; all processes ask it, and hear the same."""

    def due(self) -> bool:
        """Whether it is time."""

    def keep(self, count: int, state: dict[str, Tensor]) -> None:
        """Keeps the state of the selection of `count` centres, on each process its own."""

    def held(self) -> dict[str, Tensor] | None:
        """What was kept last; None for nothing."""


def random_projection(dimension: int, target: int, generator: torch.Generator) -> Tensor:
    """A matrix [dimension, target] with entries uniform in +- 1/sqrt(dimension) (PatchCore's released code)."""
    bound = dimension**-0.5
    return (torch.rand(dimension, target, generator=generator) * 2 - 1) * bound


def k_center_greedy(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    starting_points: int | None = 10,
    rows: Tensor | None = None,
    advance: Callable[[int], object] = lambda selected: None,
    keeper: Keeper | None = None,
) -> Selection:
    """Selects `count` vectors, each the farthest from those before it (Sener & Savarese 2018).

    The selection is that of the plain algorithm in float32, vector by vector, on any number of processes. But the
    next centres are found among few candidates: as long as one of them is farther from all centres than any vector
    outside was, it is the next. Only then are all vectors compared with the new centres, all of them in one matrix
    product, whose rounding decides nothing: where it leaves a doubt, distances are computed from differences.

    Cost: 2 N D count operations, nearly all in matrix products, divided by the processes; 4 floats a vector beside
    the vectors. Vectors stay where they are: a process sends `POOL` candidates at a time.

    Args:
        vectors: float32 [n, D], this process's share of the N vectors; n may be 0.
        count: of vectors to select, at most N.
        generator: on the CPU, the same on all processes; draws the start.
        starting_points: as in PatchCore's released code, the first distance of a vector is its mean distance to that
            many random vectors, which are not themselves selected; None starts with one random vector.
        rows: int64 [n], the numbers of this process's vectors among all, 0 to N - 1; None for one process's order.
            Of equally far vectors, the one of the lowest number is selected.
        advance: is told how many more have been selected.
        keeper: keeps the selection as it goes on; what it holds of an earlier one is gone on with, to the same rows.

    Returns:
        The selection, the same on all processes.
    """
    rows = (
        torch.arange(len(vectors), device=vectors.device)
        if rows is None
        else rows.to(vectors.device)
    )
    total = sum_over_processes(len(rows), vectors.device)
    field = _Field(vectors, rows)
    selected: list[Tensor] = []
    if keeper is not None and (earlier := keeper.held()) is not None:
        selected.append(field.restore(earlier))
        advance(len(selected[0]))
    elif starting_points is None:
        first = torch.randint(total, (1,), generator=generator).to(vectors.device)
        field.select(take_rows(vectors, rows, first, vectors.device))
        field.nearest[rows == first] = -1
        selected.append(first)
        advance(1)
    else:
        starts = torch.randperm(total, generator=generator)[:starting_points].to(vectors.device)
        field.start(take_rows(vectors, rows, starts, vectors.device))
    missing = count - sum(map(len, selected))
    while missing:
        numbers, candidates = field.next(missing)
        field.select(candidates)
        selected.append(numbers)
        missing -= len(numbers)
        advance(len(numbers))
        if keeper is not None and keeper.due():
            keeper.keep(count - missing, field.state(torch.cat(selected)))
    chosen = torch.cat(selected)
    if starting_points is not None:
        field.forget_start(take_rows(vectors, rows, chosen, vectors.device))
    return Selection(chosen, field.radius())


class _Field:
    """This process's vectors, and the squared distance of each to the nearest centre, -1 for the centres."""

    def __init__(self, vectors: Tensor, rows: Tensor) -> None:
        self.vectors, self.rows = vectors, rows
        self.nearest = torch.full((len(vectors),), float("inf"), device=vectors.device)
        # Only differences count; without the mean, products of vectors are smaller, and so is their rounding.
        sums = gather_rows(
            torch.cat([vectors.sum(0), vectors.new_tensor([len(vectors)])])[None]
        ).sum(0)
        self.mean = sums[:-1] / sums[-1]
        self.first: Tensor | None = None  # distances to starting points
        self.wide = 4 * vectors.shape[1]  # bytes of a vector
        self.part = max(1, 4 * BLOCK_BYTES // self.wide)
        self.norms = torch.empty_like(self.nearest)
        for part, norms in zip(vectors.split(self.part), self.norms.split(self.part), strict=True):
            torch.sum((part - self.mean).square_(), 1, out=norms)

    def start(self, points: Tensor) -> None:
        """The mean distance to some points stands for the distance to the nearest centre."""
        total = torch.zeros_like(self.nearest)
        for point in points:
            for part, sums in zip(
                self.vectors.split(self.part), total.split(self.part), strict=True
            ):
                sums += _squared(part, point).sqrt_()
        self.nearest = (total / len(points)).square_()
        self.first = self.nearest.clone()

    def forget_start(self, centres: Tensor) -> None:
        """Puts the distance to the nearest centre where that to the start is still less."""
        kept = (self.nearest == self.first).nonzero().flatten()
        for rows in kept.split(self.part):
            self.nearest[rows] = nearest_neighbours(self.vectors[rows], centres)[0][:, 0]

    def state(self, selected: Tensor) -> dict[str, Tensor]:
        """What `restore` goes on from: the numbers of the centres, and the distances of this process's vectors."""
        first = {"first": self.first} if self.first is not None else {}
        return {"selected": selected, "nearest": self.nearest, **first}

    def restore(self, state: dict[str, Tensor]) -> Tensor:
        """Takes what `state` has given; the numbers of the centres."""
        device = self.nearest.device
        self.nearest = state["nearest"].to(device, copy=True)
        self.first = state["first"].to(device, copy=True) if "first" in state else None
        return state["selected"].to(device)

    def next(self, most: int) -> tuple[Tensor, Tensor]:
        """Numbers and vectors of the next centres, at least one and at most `most`, in order."""
        limit, tied = self._limit()
        own = (self.nearest > limit).nonzero().flatten()
        if tied:  # more vectors than the pool holds are equally far
            equal = (self.nearest == limit).nonzero().flatten()
            own = torch.cat([own, equal[self.rows[equal].argsort()[:POOL]]])
        numbers, nearest = gather_rows(self.rows[own]), gather_rows(self.nearest[own])
        candidates = gather_rows(self.vectors[own])
        order = numbers.argsort()
        numbers, nearest, candidates = numbers[order], nearest[order], candidates[order]
        chosen = _greedy(candidates, nearest, most, limit, tied) if process_rank() == 0 else None
        chosen = broadcast(chosen, self.vectors.device)
        numbers, candidates = numbers[chosen], candidates[chosen]
        self.nearest[own[torch.isin(self.rows[own], numbers)]] = -1
        return numbers, candidates

    def _limit(self) -> tuple[float, bool]:
        """The distance above which all vectors are candidates; whether those at it are needed too."""
        top = self.nearest.topk(min(POOL + 1, len(self.nearest))).values
        beyond = top[POOL] if len(top) > POOL else top.new_tensor(-1.0)
        ends = torch.stack((top[0] if len(top) else beyond, beyond))[None]
        farthest, limit = gather_rows(ends).amax(0).tolist()
        return limit, farthest == limit

    def select(self, centres: Tensor) -> None:
        """Brings the distances down to those to new centres, where they are nearer."""
        centred = centres - self.mean
        squares = centred.square().sum(1)
        slack = 2 * ROUNDING * self.vectors.shape[1] ** 0.5
        block = max(64, BLOCK_BYTES // max(4 * len(centres), self.wide))
        parts = (self.vectors.split(block), self.norms.split(block), self.nearest.split(block))
        for vectors, norms, nearest in zip(*parts, strict=True):
            estimates = torch.addmm(squares, vectors - self.mean, centred.T, alpha=-2)
            best, doubt = estimates.amin(1) + norms, slack * (norms + squares.max())
            nearer = (best < nearest + doubt).nonzero().flatten()
            bound = torch.minimum(best, nearest).add_(doubt).sub_(norms)[nearer]
            places, which = (estimates[nearer] <= bound[:, None]).nonzero().unbind(1)
            places, some = nearer[places], max(1, BLOCK_BYTES // self.wide)
            for place, centre in zip(places.split(some), which.split(some), strict=True):
                nearest.scatter_reduce_(0, place, _squared(vectors[place], centres[centre]), "amin")

    def radius(self) -> float:
        """The largest distance of any vector to its nearest centre."""
        own = self.nearest.max() if len(self.nearest) else self.nearest.new_tensor(0.0)
        return float(gather_rows(own[None]).max().clamp(min=0).sqrt())


def _greedy(candidates: Tensor, nearest: Tensor, most: int, limit: float, tied: bool) -> Tensor:
    """Places of the centres in the order of selection, for as long as they are farther than the limit."""
    places = torch.arange(len(candidates), device=candidates.device)
    chosen: list[Tensor] = []
    while len(chosen) < most and len(nearest):
        farthest = nearest.argmax()
        if not (nearest[farthest] > limit or (tied and nearest[farthest] == limit)):
            break
        chosen.append(places[farthest])
        nearest = torch.minimum(nearest, _squared(candidates, candidates[farthest]))
        nearest[farthest] = -1
        if len(chosen) % 16 == 0:  # those that cannot be chosen any more need no distances
            keep = (nearest >= limit if tied else nearest > limit).nonzero().flatten()
            candidates, nearest, places = candidates[keep], nearest[keep], places[keep]
    return torch.stack(chosen)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows, from differences: the same bits wherever a row stands."""
    return (a - b).square_().sum(1)


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
    for start, wanted in zip(
        range(0, int(totals.max()), size), _shares(totals, size, count), strict=True
    ):
        lengths = (totals - start).clamp(0, size)
        first, length = int(lengths[: process_rank()].sum()), int(lengths[process_rank()])
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
    parts = [
        int((totals - start).clamp(0, size).sum()) for start in range(0, int(totals.max()), size)
    ]
    shares = [min(count, size * len(totals) // len(parts), length) for length in parts]
    missing = count - sum(shares)
    for part, length in enumerate(parts):  # what rounding and short parts have left open
        more = max(0, min(length - shares[part], missing))
        shares[part] += more
        missing -= more
    return shares
