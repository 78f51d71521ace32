"""Callbacks of a run; the names that configurations use."""

from lightning_ad.callbacks.averaging import LastEpochsAveraging, StepsAveraging
from lightning_ad.callbacks.throughput import ThroughputMonitor

__all__ = ["LastEpochsAveraging", "StepsAveraging", "ThroughputMonitor"]
