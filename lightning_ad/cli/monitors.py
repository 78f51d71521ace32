"""Checks, before the fit, that the metrics are there for which callbacks and schedules wait."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.learned import LearnedModule


def check_monitors(
    config: Namespace, callbacks: Sequence[Callback], model: AnomalyModule, data: AnomalyDataModule
) -> None:
    """Raises UsageError if a metric that is waited for is not among those of the run.

    A method that does not say which losses it logs may log the metric; it is not refused.

    Args:
        config: all settings.
        callbacks: those of the user.
        model: the method.
        data: after its setup.
    """
    if not _tells_all_losses(model):
        return
    there = logged_metrics(model, data)
    for who, monitor in _monitors(config, callbacks):
        if monitor not in there:
            raise UsageError(
                f"{who} waits for '{monitor}', which this run does not log: it logs "
                f"{', '.join(there) or 'nothing'} (held-out images, data.validation, add "
                "validation_* metrics; test images never choose anything)"
            )


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raises UsageError if checkpoints could not tell the user's callbacks apart."""
    keys: Counter[str] = Counter()
    for callback in callbacks:
        if is_overridden("state_dict", callback, Callback):
            keys[callback.state_key] += 1
    for key, count in keys.items():
        if count > 1:
            name = key.partition("{")[0]
            raise UsageError(
                f"trainer.callbacks: {count} of {name} with the same settings: leave one out, or "
                "give them different ones (monitor, mode, every_n_epochs)"
            )


def logged_metrics(model: AnomalyModule, data: AnomalyDataModule) -> list[str]:
    """Returns the names of the metrics that a fit logs, as far as the method says them."""
    names: list[str] = []
    if isinstance(model, LearnedModule):
        names += ["loss", "gradient_norm", *(model.loss_names or ())]
    held_out = data.samples["validation"]
    if not held_out:
        return names
    names.append("validation_score")
    if isinstance(model, LearnedModule):
        names.append("validation_loss")
    if data.validation_anomalies or any(sample.label for sample in held_out):
        names.append("validation_AUROC")
    return names


def _tells_all_losses(model: AnomalyModule) -> bool:
    """False too for a class with losses of its own that inherits the names of others."""
    if not isinstance(model, LearnedModule):
        return True
    if model.loss_names is None:
        return False
    for base in type(model).__mro__:
        if "loss_names" in vars(base):
            return True
        if "losses" in vars(base):
            return False
    return False


def _monitors(config: Namespace, callbacks: Sequence[Callback]) -> Iterator[tuple[str, str]]:
    """Yields what waits for a metric, and for which."""
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and getattr(callback, "strict", True):
            yield f"trainer.callbacks: {type(callback).__name__}", str(monitor)
    monitor = _monitor_of_schedule(config.model)
    if monitor is not None:
        yield "model.lr_scheduler", str(monitor)


def _monitor_of_schedule(model: Namespace) -> Any:
    arguments = model.get("init_args") or {}
    schedule = arguments.get("lr_scheduler")
    if not isinstance(schedule, Namespace):
        return None
    return (schedule.get("init_args") or {}).get("monitor")
