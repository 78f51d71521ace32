"""A request to stop that any process of a run may have got, as a signal."""

import signal
from typing import NoReturn

import torch
import torch.distributed as dist

from lightning_ad.errors import Preempted
from lightning_ad.system.distributed import world_size


class StopRequest:
    """Remembers that a signal has asked this process, or another one of the run, to stop."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None

    def make(self, number: int) -> None:
        """Takes a signal; the first one counts."""
        if self._signal is None:
            self._signal = signal.Signals(number)

    @property
    def number(self) -> signal.Signals | None:
        """The signal; None if this process knows of none."""
        return self._signal

    def made_anywhere(self, device: torch.device) -> bool:
        """Whether any process was asked to stop; all of them must ask, and hear the same.

        Args:
            device: what the process group talks over.
        """
        if world_size() == 1:
            return self._signal is not None
        number = torch.tensor(int(self._signal or 0), device=device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        found = int(number)
        if found:
            self._signal = signal.Signals(found)
        return found > 0  # without what this process alone may have heard meanwhile

    def stop(self, where: str) -> NoReturn:
        """Ends the run.

        Args:
            where: where it was, and how it can go on.

        Raises:
            Preempted: always.
        """
        assert self._signal is not None
        raise Preempted(f"{self._signal.name}: stopped {where}")
