"""What a run shows beside the scalars that Lightning logs: pictures, curves, distributions and facts.

A new dashboard is one file here with a `Dashboard`, and one line in `KINDS`.
"""

from collections.abc import Iterable

from lightning.pytorch.loggers import Logger

from lightning_ad.reporting.dashboards.base import Dashboard, Scene
from lightning_ad.reporting.dashboards.mlflow import MLflowDashboard
from lightning_ad.reporting.dashboards.tensorboard import TensorBoardDashboard
from lightning_ad.reporting.dashboards.wandb import WandbDashboard

KINDS: dict[str, type[Dashboard]] = {
    "TensorBoardLogger": TensorBoardDashboard,
    "WandbLogger": WandbDashboard,
    "MLFlowLogger": MLflowDashboard,
}

__all__ = ["Dashboard", "Scene", "dashboards"]


def dashboards(loggers: Iterable[Logger]) -> list[Dashboard]:
    """A dashboard for each logger that can show more than numbers."""
    found = []
    for logger in loggers:
        names = [
            kind.__name__ for kind in type(logger).__mro__
        ]  # Fabric's loggers have the names of Lightning's
        if (name := next((n for n in names if n in KINDS), None)) is not None:
            found.append(KINDS[name](logger))
    return found
