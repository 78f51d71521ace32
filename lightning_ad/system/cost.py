"""What a run costs: seconds and memory."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from lightning_ad.system.memory import peak_held


class Stopwatch:
    """Measures each stage of a run.

    Attributes:
        seconds: of each stage.
        peaks: the most main memory in GiB that this process had held by the end of each stage, and
            at the start.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks = {"start": peak_memory_gib()["host"]}
        self._earlier_peak = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add_seconds(name, time.perf_counter() - start)
            self.peaks[name] = max(self._earlier_peak, peak_memory_gib()["host"])

    def go_on(self, fit: Mapping[str, float]) -> None:
        """Adds what a resumed fit had cost before: `seconds`, and `host` in GiB."""
        self._earlier_peak = fit["host"]
        self._add_seconds("fit", fit["seconds"])
        self.peaks["fit"] = max(self._earlier_peak, self.peaks.get("fit", 0.0))

    @property
    def peak(self) -> dict[str, float]:
        """The most memory of all stages, in GiB: `host`, and `gpu` if there is one."""
        peak = peak_memory_gib()
        peak["host"] = max(self._earlier_peak, peak["host"])
        return peak

    def _add_seconds(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def peak_memory_gib() -> dict[str, float]:
    """Returns the most main memory this process has held, and the most GPU memory, in GiB."""
    peak = {"host": peak_held() / 2**30}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return peak
