"""What only the methods know that read each image once: `--extend`, `--suspects` and `--trim`."""

from pathlib import Path
from typing import Any

from lightning_ad.errors import UsageError
from lightning_ad.features.weights import read_state
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.reporting.run_folder import finished_checkpoint

FLAGS = ("extend", "suspects", "trim")


def set_fit_only(model: AnomalyModule, config: Any) -> None:
    """Hands the three flags of a configuration on to the model.

    Raises:
        UsageError: where another method is asked for them, or they cannot be met together.
    """
    wanted = {name: config[name] for name in FLAGS if config[name]}
    if not isinstance(model, FitOnlyModule):
        if wanted:
            raise UsageError(f"--{next(iter(wanted))}: {type(model).__name__} is trained, not fitted at once")
        return
    if not 0 <= config.trim < 1:
        raise UsageError(f"--trim is a share of the training images, from 0 to below 1; {config.trim} came")
    if config.extend and config.trim:
        raise UsageError("--trim goes with a fit from the start: leave out --extend, or --trim")
    if config.extend:
        model.grow_from(read_state(finished_checkpoint(Path(config.extend))))
    model.list_suspects, model.trim = config.suspects, config.trim
