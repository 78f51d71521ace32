"""Exchanging rows between processes; each function is the identity where there is one process."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """All processes' rows [n_r, ...], concatenated in the order of processes, on every process.

    The n_r may differ, and may be 0; the other dimensions and the dtype must agree.
    """
    if world_size() == 1:
        return rows
    counts = _counts(rows)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sum_over_processes(number: int, device: torch.device) -> int:
    """The sum of all processes' numbers."""
    return int(gather_rows(torch.tensor([number], device=device)).sum())


def collect_rows(rows: Tensor, device: torch.device) -> list[Tensor] | None:
    """The rows [n_r, ...] of each process on the first one, as a list; None on the others.

    `device` is what the process group talks over (CUDA for NCCL); rows travel over it one process at a time.
    """
    if world_size() == 1:
        return [rows]
    counts = _counts(rows.to(device))
    if process_rank() > 0:
        if len(rows):
            dist.send(rows.contiguous().to(device), dst=0)
        return None
    parts = [rows]
    for sender, count in enumerate(counts[1:], start=1):
        part = torch.empty(count, *rows.shape[1:], dtype=rows.dtype, device=device)
        if count:
            dist.recv(part, src=sender)
        parts.append(part.to(rows.device))
    return parts


def take_rows(values: Tensor, rows: Tensor, wanted: Tensor, device: torch.device) -> Tensor:
    """The values [m, ...] of the numbers `wanted` [m], on every process, whichever process holds them.

    `rows` [n] are the numbers of this process's `values` [n, ...]; together they hold each wanted number once.
    `device` is what the process group talks over, and where the result is.
    """
    own = torch.isin(rows, wanted.to(rows.device)).nonzero().flatten()
    numbers, found = (
        gather_rows(rows[own].to(device)),
        gather_rows(values[own.to(values.device)].to(device)),
    )
    wanted = wanted.to(device)
    in_order = numbers.argsort()
    return found[in_order[torch.searchsorted(numbers[in_order], wanted)]]


def broadcast(value: Tensor | None, device: torch.device) -> Tensor:
    """The first process's tensor, of a shape that the others need not know, on all of them."""
    if world_size() == 1:
        assert value is not None
        return value.to(device)
    described: list[object] = [None if value is None else (value.shape, value.dtype)]
    dist.broadcast_object_list(described, src=0, device=device)
    shape, dtype = described[0]  # type: ignore[misc]
    value = (
        torch.empty(shape, dtype=dtype, device=device)
        if process_rank()
        else value.contiguous().to(device)
    )
    dist.broadcast(value, src=0)
    return value


def _counts(rows: Tensor) -> list[int]:
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    return [int(c) for c in counts]
