"""Exchanges rows between processes; with one process, each function returns what it is given."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Returns the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def process_rank() -> int:
    """Returns the number of this process, from 0."""
    if world_size() > 1:
        return dist.get_rank()
    return 0


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenates all processes' rows [n_r, ...] in the order of processes, on every process.

    The n_r may differ, and may be 0; the other dimensions and the dtype must agree.
    """
    if world_size() == 1:
        return rows
    counts = _gather_counts(rows)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    rows_of_each = []
    for part, count in zip(parts, counts, strict=True):
        rows_of_each.append(part[:count])
    return torch.cat(rows_of_each)


def sum_over_processes(number: int, device: torch.device) -> int:
    """Returns the sum of all processes' numbers."""
    numbers = gather_rows(torch.tensor([number], device=device))
    return int(numbers.sum())


def take_rows(values: Tensor, rows: Tensor, wanted: Tensor, device: torch.device) -> Tensor:
    """Returns some rows on every process, whichever process holds them.

    Args:
        values: [n, ...], those of this process.
        rows: int64 [n], their numbers; all processes together hold each wanted number once.
        wanted: int64 [m], the numbers of the rows to return.
        device: what the process group talks over, and where the result is.

    Returns:
        [m, ...], in the order of `wanted`.
    """
    is_wanted = torch.isin(rows, wanted.to(rows.device))
    own = is_wanted.nonzero().flatten()
    numbers = gather_rows(rows[own].to(device))
    found = gather_rows(values[own.to(values.device)].to(device))
    in_order = numbers.argsort()
    places = torch.searchsorted(numbers[in_order], wanted.to(device))
    return found[in_order[places]]


def broadcast(value: Tensor | None, device: torch.device) -> Tensor:
    """Returns the first process's tensor on all of them; the others need not know its shape."""
    if world_size() == 1:
        assert value is not None
        return value.to(device)
    shape_and_dtype: list[object] = [None]
    if value is not None:
        shape_and_dtype = [(value.shape, value.dtype)]
    dist.broadcast_object_list(shape_and_dtype, src=0, device=device)
    if process_rank() == 0:
        tensor = value.contiguous().to(device)
    else:
        shape, dtype = shape_and_dtype[0]  # type: ignore[misc]
        tensor = torch.empty(shape, dtype=dtype, device=device)
    dist.broadcast(tensor, src=0)
    return tensor


def _gather_counts(rows: Tensor) -> list[int]:
    """Returns the number of rows of each process."""
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    return torch.cat(counts).tolist()
