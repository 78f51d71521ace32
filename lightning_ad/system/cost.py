"""What a run takes: seconds and memory."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds by stage, and the most memory in GiB that this process had held by its end, and at the start."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks = {"start": peak_memory_gib()["host"]}
        self._earlier = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.peaks[name] = max(self._earlier, peak_memory_gib()["host"])

    def go_on(self, fit: Mapping[str, float]) -> None:
        """Adds what the fit had cost before it was gone on with: `seconds`, and `host` in GiB."""
        self._earlier = fit["host"]
        self.seconds["fit"] = self.seconds.get("fit", 0.0) + fit["seconds"]
        self.peaks["fit"] = max(self._earlier, self.peaks.get("fit", 0.0))

    @property
    def peak(self) -> dict[str, float]:
        """The most memory of all stages, in GiB: `host`, and `gpu` where there is one."""
        held = peak_memory_gib()
        return {**held, "host": max(self._earlier, held["host"])}


def peak_memory_gib() -> dict[str, float]:
    """The most main memory this process has held, and the most memory on its GPU, in GiB."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes on a Mac, KiB elsewhere
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return peak
