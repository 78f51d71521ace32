"""What only the methods know that read each image once: `--extend`, `--suspects` and `--trim`; and a forecast."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.geometry import Geometry
from lightning_ad.errors import UsageError
from lightning_ad.features.weights import read_state
from lightning_ad.forecast import Plan, Stage, available, measure, scoring_again, table, with_metrics
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.reporting.recorder import ConfigInCheckpoint
from lightning_ad.reporting.run_folder import finished_checkpoint

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
            raise UsageError(f"--{next(iter(wanted))}: {type(model).__name__} is trained, not fitted at once")
        return
    if not 0 <= config.trim < 1:
        raise UsageError(f"--trim is a share of the training images, from 0 to below 1; {config.trim} came")
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
    return Geometry.of(data["image_size"], data["center_crop"]), data["tile"], data["tile"] and data["tile_overlap"]


def announce(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer, resumed: bool) -> None:
    """Prints what a run will take, before the first image is read, where the method knows; on the first process."""
    if not trainer.is_global_zero or resumed or type(model).stages is AnomalyModule.stages:
        return
    model.to(trainer.strategy.root_device)
    if isinstance(model, FitOnlyModule) and model.growing:
        before, new = model.images_before // model.rows_per_image, len(data.samples["train"])
        print(f"{new} images are added to {before}")
    counts, world, tiles = data.counts(), trainer.world_size, 1 if data.tiles is None else len(data.tiles)
    images, tested = (-(-counts[split] // world) * tiles for split in ("train", "test"))
    plan = Plan(images, tested, *data.input_size, world, data.batch_size, max(1, trainer.max_epochs or 1))
    first = data.samples["train"][0].path
    device = trainer.strategy.root_device
    speed = measure(model.describe, data.training_set().read, first, *data.input_size, data.batch_size, device)
    stages = _stages(model, plan)
    speed = speed._replace(reading=speed.reading / tiles)  # an image is read once for all of its tiles
    workers, together = data.workers(device, model.synthesis is not None), data.batch_size if data.tiles is None else 1
    print(table(stages, speed, workers, together))
    wanted, there = max(stage.held for stage in stages), available()
    if there is not None and wanted > there:
        sizes = f"{wanted / 2**30:.1f} GiB more than now are wanted, and {there / 2**30:.1f} GiB can be had"
        rank_zero_warn(f"{sizes}; {_remedy(model, plan, there)}")


def _stages(model: AnomalyModule, plan: Plan) -> list[Stage]:
    *fit, test = model.stages(plan)
    if isinstance(model, FitOnlyModule) and (model.list_suspects or model.trim):
        fit += scoring_again(test, plan, fit if model.trim else [])
    return [*fit, with_metrics(test, plan, model.metrics.memory_gb)]


def _remedy(model: AnomalyModule, plan: Plan, there: int) -> str:
    """A setting under which a run fits into `there` bytes, as the forecast sees it."""
    before = getattr(model, "memory_bytes", None)
    if hasattr(model, "memory_bytes"):
        for share in (0.75, 0.5, 0.25, 0.1):
            model.memory_bytes = int(share * there)
            held = max(stage.held for stage in _stages(model, plan))
            model.memory_bytes = before
            if held <= there:
                return f"set model.memory_gb to {share * there / 2**30:.2g}"
    return "lower data.image_size, or --metrics_gb"
