"""What only the methods know that read each image once: `--extend`, `--suspects` and `--trim`."""

from pathlib import Path
from typing import Any

import yaml

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.geometry import Geometry
from lightning_ad.errors import UsageError
from lightning_ad.features.weights import read_state
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.system.run_folder import finished_checkpoint

FLAGS = ("extend", "suspects", "trim")
VIEW = ("image_size", "center_crop", "tile", "tile_overlap")  # settings of how images are seen


def set_fit_only(model: AnomalyModule, config: Any) -> None:
    """Hands the three flags of a configuration on to the model.

    Raises:
        UsageError: where another method is asked for them, or they cannot be met together.
    """
    wanted = {name: config[name] for name in FLAGS if config[name]}
    if not isinstance(model, FitOnlyModule):
        if wanted:
            raise UsageError(
                f"--{next(iter(wanted))}: {type(model).__name__} is trained, not fitted at once"
            )
        return
    if not 0 <= config.trim < 1:
        raise UsageError(
            f"--trim is a share of the training images, from 0 to below 1; {config.trim} came"
        )
    if config.extend and config.trim:
        raise UsageError("--trim goes with a fit from the start: leave out --extend, or --trim")
    if config.extend:
        checkpoint = read_state(finished_checkpoint(Path(config.extend)))
        if otherwise := seen_otherwise(checkpoint[ConfigInCheckpoint.KEY], config.data):
            raise UsageError(
                f"--extend: {config.extend} has seen its images with {otherwise}: leave these flags out, or fit anew"
            )
        model.grow_from(checkpoint)
    model.list_suspects, model.trim = config.suspects, config.trim
    model.progress_minutes = config.progress_minutes


def check_new(model: FitOnlyModule, data: AnomalyDataModule, run: str) -> None:
    """Raises UsageError where images that are to be added to a run are in it already, by their paths."""
    names = data.training_set().names
    known = sorted({*names} & {*model.training_paths})
    if known:
        raise UsageError(
            f"{len(known)} of the {len(names)} images that are to be added are in {run} already, {known[0]} first: "
            "name a folder of new good images by --data.train_folder"
        )


def seen_otherwise(config: str, data: Any) -> str:
    """How a run of a configuration (YAML) has seen its images, where `data` is set otherwise; else nothing."""
    own = yaml.safe_load(config)["data"]
    if _view(own) == _view(data):
        return ""
    different = [name for name in VIEW if own.get(name) != data[name]]
    return ", ".join(f"data.{name} {own.get(name)} (now {data[name]})" for name in different)


def _view(data: Any) -> tuple[object, ...]:
    """The same for the same view, however it is written."""
    return (
        Geometry.of(data["image_size"], data["center_crop"]),
        data["tile"],
        data["tile"] and data["tile_overlap"],
    )
