"""The forecast of the memory that each stage of a run takes, printed before it begins."""

from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage, with_metrics, with_suspects
from lightning_ad.system.memory import available, held_now

GIB = 2**30
SHARES = (0.75, 0.5, 0.25, 0.1)  # of the available memory, tried as the method's budget


def announce(
    model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer, resumed: bool
) -> None:
    """Prints the memory that each stage takes, on the first process, if the method forecasts it.

    Warns if there is not enough of it, and names a setting that fits.
    """
    if not trainer.is_global_zero or resumed:
        return
    plan = _plan(model, data, trainer)
    stages = _stages(model, plan)
    if not stages:
        return
    if isinstance(model, FitOnlyModule) and model.extending:
        before = model.images_before // model.tiles_per_image
        print(f"{len(data.samples['train'])} images are added to {before}")
    print(table(stages))
    needed = _peak(stages)
    free = available()
    if free is not None and needed > free:
        rank_zero_warn(
            f"this run needs {needed / GIB:.1f} GiB of memory more than now, and "
            f"{free / GIB:.1f} GiB are available: {_remedy(model, plan, free)}"
        )


def table(stages: Sequence[Stage]) -> str:
    """The forecast as lines of text: the peak memory of this process, stage by stage."""
    base = held_now()
    lines = [f"{'Forecast':<28}{'memory':>12}"]
    for stage in stages:
        lines.append(f"{stage.name:<28}{(base + stage.held_bytes) / GIB:>8.2f} GiB")
    return "\n".join(lines)


def _plan(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer) -> Plan:
    counts = data.counts()
    world = trainer.world_size
    tiles = 1 if data.tiles is None else len(data.tiles)

    def for_each_process(split: str) -> int:
        return -(-counts[split] // world) * tiles

    return Plan(
        for_each_process("train"),
        for_each_process("test"),
        *data.input_size,
        world,
        data.batch_size,
        model.memory_bytes,
    )


def _stages(model: AnomalyModule, plan: Plan) -> list[Stage]:
    """All stages of a run; none if the method forecasts nothing."""
    stages = model.stages(plan)
    if not stages:
        return []
    *fit, test = stages
    settings = model.run_settings
    if settings.scores_training_images:
        fit = with_suspects(fit, test, trim=settings.trim > 0)
    return [*fit, with_metrics(test, plan, settings.metrics_gb)]


def _peak(stages: Sequence[Stage]) -> float:
    return max(stage.held_bytes for stage in stages)


def _remedy(model: AnomalyModule, plan: Plan, free: int) -> str:
    """A setting with which a run fits into `free` bytes, as far as the forecast can tell."""
    if "memory_gb" in model.hparams:
        for share in SHARES:
            budget = int(share * free)
            if _peak(_stages(model, plan._replace(memory_bytes=budget))) <= free:
                return f"set model.memory_gb to {share * free / GIB:.2g}"
    return "lower data.image_size, or --metrics_gb"
