"""Greedy k-centre selection: few vectors so that every vector has one near it.

`k_center_greedy` selects from vectors that are all in memory, `coresets_of_parts` reduces more than
that part by part. Both run on one process or many, on a CPU or on CUDA.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_ad.errors import CapacityError
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import (
    broadcast,
    gather_rows,
    process_rank,
    sum_over_processes,
    take_rows,
    world_size,
)

POOL = 1024  # candidates of each process that are compared with each other
BLOCK_BYTES = 2 * 2**20  # of distances held at a time: they stay in a core's cache
# The error of a product of two vectors, divided by the square root of their length.
ROUNDING = 4 * torch.finfo(torch.float32).eps

Advance = Callable[[int], object]


def _ignore_progress(selected: int) -> None:
    pass


class Coreset(NamedTuple):
    """The selected vectors.

    Attributes:
        rows: int64 [count], in order of selection; numbers of vectors over all processes.
        radius: the largest Euclidean distance of any vector to the nearest selected one, whatever
            the start.
    """

    rows: Tensor
    radius: float


class SelectionSaver(Protocol):
    """Saves a selection while it runs, so that one that is stopped can continue.

    All processes call each method together and get the same answer.
    """

    def due(self) -> bool:
        """Returns whether it is time to save."""

    def save(self, count: int, state: dict[str, Tensor]) -> None:
        """Saves the state of a selection of `count` vectors; each process saves its own."""

    def saved_state(self) -> dict[str, Tensor] | None:
        """Returns the state that was saved last; None if there is none."""


def random_projection(dimension: int, target: int, generator: torch.Generator) -> Tensor:
    """Draws a matrix [dimension, target], uniform in +- 1/sqrt(dimension), as released."""
    bound = dimension**-0.5
    return (torch.rand(dimension, target, generator=generator) * 2 - 1) * bound


def k_center_greedy(
    vectors: Tensor,
    count: int,
    generator: torch.Generator,
    starting_points: int | None = 10,
    rows: Tensor | None = None,
    advance: Advance = _ignore_progress,
    saver: SelectionSaver | None = None,
) -> Coreset:
    """Selects `count` vectors, each the farthest from those before it (Sener & Savarese 2018).

    The selection is that of the plain algorithm in float32, vector by vector, on any number of
    processes. But the next centres are found among few candidates: as long as one of them is
    farther from all centres than any vector outside was, it is the next. Only then are all vectors
    compared with the new centres, all of them in one matrix product, whose rounding decides
    nothing: if it leaves a doubt, distances are computed from differences.

    Cost: 2 N D count operations, nearly all in matrix products, divided by the processes; 4 floats
    a vector in addition to the vectors. Vectors stay on their process, which sends `POOL`
    candidates at a time.

    Args:
        vectors: float32 [n, D], this process's share of the N vectors; n may be 0.
        count: of vectors to select, at most N.
        generator: on the CPU, the same on all processes; draws the start.
        starting_points: as in PatchCore's released code, the first distance of a vector is its mean
            distance to that many random vectors, which are not themselves selected. 0 starts with
            the vector farthest from the mean, whose distances to all others have the largest sum of
            squares, as its sampler without approximation; None with one random vector.
        rows: int64 [n], the numbers of this process's vectors among all, 0 to N - 1; None for one
            process's order. Of equally far vectors, the one of the lowest number is selected.
        advance: is called with how many more have been selected.
        saver: saves the selection while it runs; a selection that it saved earlier continues, to
            the same rows.

    Returns:
        The coreset, the same on all processes.
    """
    if rows is None:
        rows = torch.arange(len(vectors), device=vectors.device)
    selection = _Selection(vectors, rows.to(vectors.device))
    saved = None
    if saver is not None:
        saved = saver.saved_state()
    if saved is not None:
        selection.restore(saved)
    elif starting_points is None:
        selection.start_with_one(generator)
    elif starting_points == 0:
        selection.start_with_farthest()
    else:
        selection.start_with_distances(starting_points, generator)
    if selection.count:
        advance(selection.count)
    while selection.count < count:
        before = selection.count
        selection.extend(count - before)
        advance(selection.count - before)
        if saver is not None and saver.due():
            saver.save(selection.count, selection.state())
    return selection.finish()


class _Selection:
    """A running selection from this process's vectors.

    Attributes:
        nearest: [n], the squared distance of each vector to its nearest centre; -1 for the centres.
        count: of centres selected so far, on all processes together.
    """

    def __init__(self, vectors: Tensor, rows: Tensor) -> None:
        self.vectors = vectors
        self.rows = rows
        self.device = vectors.device
        self.nearest = vectors.new_full((len(vectors),), math.inf)
        self.count = 0
        self._selected: list[Tensor] = []
        self._start_distances: Tensor | None = None
        self._vector_bytes = 4 * vectors.shape[1]
        self._part = max(1, 4 * BLOCK_BYTES // self._vector_bytes)  # vectors of a pass over all
        # Only differences matter; without the mean, products of vectors are smaller, and so is
        # their rounding.
        self._mean = _mean_of_all(vectors)
        self._norms = torch.empty_like(self.nearest)
        for part, norms in self._parts_with(self._norms):
            deviations = part - self._mean
            torch.sum(deviations.square_(), 1, out=norms)

    def start_with_one(self, generator: torch.Generator) -> None:
        """Selects one random vector."""
        total = sum_over_processes(len(self.rows), self.device)
        drawn = torch.randint(total, (1,), generator=generator)
        self._select_first(drawn.to(self.device))

    def start_with_farthest(self) -> None:
        """Selects the vector farthest from the mean of all; of equals, that of the lowest number.

        In float64, so that the number of processes does not matter.
        """
        mean = self._exact_mean()
        squared = torch.empty(len(self.vectors), dtype=torch.float64, device=self.device)
        for part, part_squared in self._parts_with(squared):
            deviations = part.double() - mean
            torch.sum(deviations.square_(), 1, out=part_squared)
        farthest = squared.new_tensor([-1.0])
        number = self.rows.new_tensor([torch.iinfo(torch.int64).max])
        if len(squared):
            farthest = squared.max()[None]
            number = self.rows[squared == farthest].min()[None]
        distances = gather_rows(farthest)
        numbers = gather_rows(number)
        self._select_first(numbers[distances == distances.max()].min()[None])

    def _exact_mean(self) -> Tensor:
        """Returns the mean [D] of the vectors of all processes in float64."""
        total = torch.zeros(self.vectors.shape[1], dtype=torch.float64, device=self.device)
        for part in self.vectors.split(self._part):
            total += part.double().sum(0)
        count = sum_over_processes(len(self.rows), self.device)
        return gather_rows(total[None]).sum(0) / count

    def _select_first(self, first: Tensor) -> None:
        self._compare(self._vectors_of(first))
        self.nearest[self.rows == first] = -1
        self._record(first)

    def start_with_distances(self, points: int, generator: torch.Generator) -> None:
        """Sets the distances to the mean distance to random vectors, none of which is selected."""
        total = sum_over_processes(len(self.rows), self.device)
        order = torch.randperm(total, generator=generator)
        starts = self._vectors_of(order[:points].to(self.device))
        sums = torch.zeros_like(self.nearest)
        for start in starts:
            for part, part_sums in self._parts_with(sums):
                part_sums += _squared(part, start).sqrt_()
        self.nearest = (sums / len(starts)).square_()
        self._start_distances = self.nearest.clone()

    def extend(self, most: int) -> None:
        """Selects the next centres, at least one and at most `most`."""
        numbers, centres = self._next_centres(most)
        self._compare(centres)
        self._record(numbers)

    def finish(self) -> Coreset:
        """Returns what was selected, with the radius of the centres whatever the start."""
        rows = torch.cat(self._selected)
        if self._start_distances is not None:
            self._forget_start(self._vectors_of(rows))
        farthest = self.nearest.new_tensor(0.0)
        if len(self.nearest):
            farthest = self.nearest.max()
        squared_radius = gather_rows(farthest[None]).max()
        return Coreset(rows, float(squared_radius.clamp(min=0).sqrt()))

    def state(self) -> dict[str, Tensor]:
        """Returns what `restore` needs to continue."""
        state = {"selected": torch.cat(self._selected), "nearest": self.nearest}
        if self._start_distances is not None:
            state["first"] = self._start_distances
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continues from what `state` has returned."""
        self.nearest = state["nearest"].to(self.device, copy=True)
        if "first" in state:
            self._start_distances = state["first"].to(self.device, copy=True)
        self._record(state["selected"].to(self.device))

    def _record(self, numbers: Tensor) -> None:
        self._selected.append(numbers)
        self.count += len(numbers)

    def _parts_with(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs parts of the vectors with the same parts of some values of theirs."""
        parts = self.vectors.split(self._part)
        return zip(parts, values.split(self._part), strict=True)

    def _vectors_of(self, numbers: Tensor) -> Tensor:
        """Returns the vectors of some numbers, on every process."""
        return take_rows(self.vectors, self.rows, numbers, self.device)

    def _forget_start(self, centres: Tensor) -> None:
        """Replaces distances that are still those to the start by those to the nearest centre."""
        unchanged = _indices(self.nearest == self._start_distances)
        for rows in unchanged.split(self._part):
            squared, _ = nearest_neighbours(self.vectors[rows], centres)
            self.nearest[rows] = squared[:, 0]

    def _next_centres(self, most: int) -> tuple[Tensor, Tensor]:
        """Returns the numbers and vectors of the next centres, in order of selection."""
        limit, tied = self._limit()
        own = self._own_candidates(limit, tied)
        numbers = gather_rows(self.rows[own])
        nearest = gather_rows(self.nearest[own])
        candidates = gather_rows(self.vectors[own])
        order = numbers.argsort()
        numbers = numbers[order]
        candidates = candidates[order]
        chosen = None
        if process_rank() == 0:
            chosen = _greedy(candidates, nearest[order], most, limit, tied)
        chosen = broadcast(chosen, self.device)
        numbers = numbers[chosen]
        is_centre = torch.isin(self.rows[own], numbers)
        self.nearest[own[is_centre]] = -1
        return numbers, candidates[chosen]

    def _own_candidates(self, limit: float, tied: bool) -> Tensor:
        """Returns the places of this process's vectors that the next centres are chosen from."""
        own = _indices(self.nearest > limit)
        if not tied:
            return own
        # More vectors than the pool holds are equally far.
        equal = _indices(self.nearest == limit)
        lowest = self.rows[equal].argsort()[:POOL]
        return torch.cat([own, equal[lowest]])

    def _limit(self) -> tuple[float, bool]:
        """Returns the distance above which vectors are candidates, and whether those at it are."""
        most = min(POOL + 1, len(self.nearest))
        top = self.nearest.topk(most).values
        beyond = top.new_tensor(-1.0)
        if len(top) > POOL:
            beyond = top[POOL]
        farthest = beyond
        if len(top):
            farthest = top[0]
        own = torch.stack((farthest, beyond))
        farthest, limit = gather_rows(own[None]).amax(0).tolist()
        return limit, farthest == limit

    def _compare(self, centres: Tensor) -> None:
        """Lowers the distances to those to new centres, if these are nearer."""
        centred = centres - self._mean
        squares = centred.square().sum(1)
        slack = 2 * ROUNDING * self.vectors.shape[1] ** 0.5
        row_bytes = max(4 * len(centres), self._vector_bytes)
        block = max(64, BLOCK_BYTES // row_bytes)
        for start in range(0, len(self.vectors), block):
            rows = slice(start, start + block)
            vectors = self.vectors[rows]
            norms = self._norms[rows]
            nearest = self.nearest[rows]
            estimates = torch.addmm(squares, vectors - self._mean, centred.T, alpha=-2)
            best = estimates.amin(1) + norms
            doubt = slack * (norms + squares.max())
            nearer = _indices(best < nearest + doubt)
            bound = torch.minimum(best, nearest).add_(doubt).sub_(norms)
            possible = estimates[nearer] <= bound[nearer, None]
            places, which = possible.nonzero().unbind(1)
            self._lower(nearest, vectors, nearer[places], centres, which)

    def _lower(
        self, nearest: Tensor, vectors: Tensor, places: Tensor, centres: Tensor, which: Tensor
    ) -> None:
        """Lowers `nearest` at `places` to the exact distances to the centres `which`."""
        pairs = max(1, BLOCK_BYTES // self._vector_bytes)
        for place, centre in zip(places.split(pairs), which.split(pairs), strict=True):
            distances = _squared(vectors[place], centres[centre])
            nearest.scatter_reduce_(0, place, distances, "amin")


def _greedy(candidates: Tensor, nearest: Tensor, most: int, limit: float, tied: bool) -> Tensor:
    """Returns the places of the next centres in order, as long as they are farther than the limit.

    If `tied`, candidates at the limit are centres too.
    """
    reaches = torch.ge if tied else torch.gt
    places = torch.arange(len(candidates), device=candidates.device)
    chosen: list[Tensor] = []
    while len(chosen) < most and len(nearest):
        farthest = nearest.argmax()
        if not reaches(nearest[farthest], limit):
            break
        chosen.append(places[farthest])
        distances = _squared(candidates, candidates[farthest])
        nearest = torch.minimum(nearest, distances)
        nearest[farthest] = -1
        if len(chosen) % 16 == 0:  # those that cannot be chosen any more need no distances
            left = _indices(reaches(nearest, limit))
            candidates = candidates[left]
            nearest = nearest[left]
            places = places[left]
    return torch.stack(chosen)


def _mean_of_all(vectors: Tensor) -> Tensor:
    """Returns the mean [D] of the vectors of all processes."""
    count = vectors.new_tensor([len(vectors)])
    sum_and_count = torch.cat([vectors.sum(0), count])
    total = gather_rows(sum_and_count[None]).sum(0)
    return total[:-1] / total[-1]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Returns squared distances of rows, from differences: the same bits wherever a row stands."""
    return (a - b).square_().sum(1)


def _indices(mask: Tensor) -> Tensor:
    """Returns the indices int64 [m] of the entries of a mask [n] that are true."""
    return mask.nonzero().flatten()


def coresets_of_parts(
    read: Callable[[int, int], Tensor],
    total: int,
    size: int,
    count: int,
    generator: torch.Generator,
    starting_points: int | None = 10,
    advance: Advance = _ignore_progress,
) -> tuple[Tensor, float]:
    """Selects `count` vectors of each part, or as many as can be held of all parts together.

    A selection of `count` of what is left has a radius of at most its own and the largest one here:
    about twice that of a selection from all vectors. Each process cuts its own vectors into parts,
    so the result depends on the number of processes.

    Args:
        read: returns the vectors [m, D] of this process from a row to another, the same D on all
            processes.
        total: number of this process's vectors.
        size: of a part; as many vectors can be held on each process (of what is left, in the mean
            over processes).
        count: of vectors that will be selected in the end, over all processes.
        generator: on the CPU, the same on all processes.
        starting_points: as in `k_center_greedy`.
        advance: is called with how many more vectors were selected from a part.

    Returns:
        The rows int64 [k] of this process that are left, ascending, and the largest radius of a
        part.

    Raises:
        CapacityError: if `count` vectors cannot be held.
    """
    capacity = size * world_size()
    if count > capacity:
        raise CapacityError(count, capacity)
    device = read(0, min(1, total)).device
    totals = gather_rows(torch.tensor([total], device=device)).cpu()
    left = [torch.empty(0, dtype=torch.int64)]
    radius = 0.0
    starts = range(0, int(totals.max()), size)
    shares = _shares(totals, size, count)
    for start, share in zip(starts, shares, strict=True):
        lengths = (totals - start).clamp(0, size)
        first = int(lengths[: process_rank()].sum())
        last = first + int(lengths[process_rank()])
        numbers = torch.arange(first, last, device=device)
        vectors = read(min(start, total), min(start + size, total))
        coreset = k_center_greedy(vectors, share, generator, starting_points, numbers, advance)
        del vectors  # before the next ones are read
        is_own = (coreset.rows >= first) & (coreset.rows < last)
        own = coreset.rows[is_own] - first + start
        left.append(own.sort().values.cpu())
        radius = max(radius, coreset.radius)
    return torch.cat(left), radius


def _shares(totals: Tensor, size: int, count: int) -> list[int]:
    """Returns how many vectors to select from each part: `count` in all, or as many as can be held.

    Args:
        totals: int64, the number of vectors of each process.
        size: of a part on each process.
        count: of vectors that will be selected in the end.
    """
    lengths = []
    for start in range(0, int(totals.max()), size):
        length = (totals - start).clamp(0, size).sum()
        lengths.append(int(length))
    even_share = size * len(totals) // len(lengths)
    shares = [min(count, even_share, length) for length in lengths]
    missing = count - sum(shares)
    for part, length in enumerate(lengths):  # what rounding and short parts have left open
        more = max(0, min(length - shares[part], missing))
        shares[part] += more
        missing -= more
    return shares
