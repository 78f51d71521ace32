"""What only the methods know that read each image once: `--extend`, `--suspects` and `--trim`, and a forecast."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError
from lightning_ad.features.weights import read_state
from lightning_ad.forecast import available, held_now, measure, table
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


def announce(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer, resumed: bool) -> None:
    """Prints what a fit-only method's run will take, before the first image is read; on the first process."""
    if not (isinstance(model, FitOnlyModule) and trainer.is_global_zero) or resumed:
        return
    size = data.input_size
    model.to(trainer.strategy.root_device)
    first = data.samples["train"][0].path
    speed = measure(model.describe, data.training_set().read, first, *size, trainer.strategy.root_device)
    counts = data.counts()
    images, tested = (-(-counts[split] // trainer.world_size) for split in ("train", "test"))
    tiles = 1 if data.tiles is None else len(data.tiles)
    stages = model.stages(images * tiles, tested * tiles, *size, trainer.world_size)
    print(table(stages, speed, data.num_workers))
    wanted, there = held_now() + max(stage.held for stage in stages), available()
    if there is not None and wanted > held_now() + there:
        rank_zero_warn(
            f"{wanted / 2**30:.1f} GiB are wanted, and {(held_now() + there) / 2**30:.1f} GiB can be had; "
            f"set model.memory_gb to {max(there / 2**30 / 2, 0.1):.1f}, or data.image_size to less"
        )
