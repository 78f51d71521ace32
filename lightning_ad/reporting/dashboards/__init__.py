"""What a run shows beside the scalars that Lightning logs: pictures, curves, histograms and facts.

A new dashboard is one file here with a `Dashboard`, and one line in `KINDS`.
"""

from collections.abc import Iterable

from lightning.pytorch.loggers import Logger

from lightning_ad.reporting.dashboards.base import Dashboard, PlottedLine, ScoredImage
from lightning_ad.reporting.dashboards.mlflow import MLflowDashboard
from lightning_ad.reporting.dashboards.safe_logger import SafeLogger
from lightning_ad.reporting.dashboards.tensorboard import TensorBoardDashboard
from lightning_ad.reporting.dashboards.wandb import WandbDashboard

KINDS: dict[str, type[Dashboard]] = {
    "TensorBoardLogger": TensorBoardDashboard,
    "WandbLogger": WandbDashboard,
    "MLFlowLogger": MLflowDashboard,
}

__all__ = ["Dashboard", "PlottedLine", "ScoredImage", "dashboards"]


def dashboards(loggers: Iterable[Logger]) -> list[Dashboard]:
    """Returns a dashboard for each logger that can show more than numbers, and has not failed."""
    found = []
    for logger in loggers:
        inner = logger.inner if isinstance(logger, SafeLogger) else logger
        # By name: Fabric's loggers have the names of Lightning's.
        for base in type(inner).__mro__:
            if base.__name__ in KINDS:
                found.append(KINDS[base.__name__](inner))
                break
    return found
