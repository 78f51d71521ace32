"""Checks of what a run asks for, before anything is written."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_ad.cli.fit_only import check_new_images
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError
from lightning_ad.evaluation.thresholds import check_requirements
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.methods.run_settings import RunSettings

ANY_SHARE = 0.5  # of the training images
BY_VALIDATION = ("conformal", "quantile", "f1")  # thresholds that rest on held-out images


def check_method(config: Namespace, model: AnomalyModule) -> None:
    """Raises UsageError if the method cannot do at all what a flag asks for.

    The values of the flags are not looked at, and no file is read.
    """
    if config.extend:
        model.check_run(RunSettings(), extends=True)
    if config.suspects:
        model.check_run(RunSettings(list_suspects=True))
    if config.trim:
        model.check_run(RunSettings(trim=ANY_SHARE))


def check_wishes(config: Namespace, model: AnomalyModule, settings: RunSettings) -> None:
    """Raises UsageError if a run cannot do what its flags ask for, whatever the data.

    Args:
        config: all settings.
        model: the method.
        settings: what the run asks of it.
    """
    if config.trainer.default_root_dir is not None:
        raise UsageError(
            "trainer.default_root_dir is the run folder; choose its place with --output and --name"
        )
    model.check_run(settings, extends=bool(config.extend))
    check_selection(config, model)


def check_wishes_of_data(
    config: Namespace,
    model: AnomalyModule,
    data: AnomalyDataModule,
    extend: dict[str, Any] | None,
) -> None:
    """Raises UsageError if a fit on these data cannot end as its flags ask for.

    Args:
        config: all settings.
        model: the method.
        data: after its setup.
        extend: the checkpoint of the fit that is extended; None for none.
    """
    held_out = data.samples["validation"]
    check_anomalies_for_selection(config, held_out)
    check_threshold(config, model, held_out)
    if extend is not None:
        check_new_images(data.training_set().names, extend["training_paths"], config.extend)


def check_test(limit: int | float | None, data: AnomalyDataModule) -> None:
    """Raises an error if a run could not end with a test.

    Args:
        limit: number or share of the batches that are tested; None for all.
        data: after its setup.

    Raises:
        DataError: if there is no test image.
        UsageError: if the limit leaves none.
    """
    images = len(data.samples["test"])
    if not images:
        raise DataError(
            f"no test image in {data.root}: a run ends with a test, and its metrics need good and "
            "anomalous images. Add some; or fit from Python, by a Trainer of Lightning"
        )
    batches = -(-images // (1 if data.tiles else data.batch_size))
    share = limit if isinstance(limit, float) else 1.0
    if limit == 0 or int(share * batches) == 0:
        raise UsageError(
            f"trainer.limit_test_batches {limit} leaves nothing of the test of {batches} batches, "
            "with which a run ends: leave it out, or raise it"
        )


def check_selection(config: Namespace, model: AnomalyModule) -> None:
    """Raises UsageError if the best epoch cannot be chosen as --select asks for."""
    metric = config.select
    if metric == "last":
        return
    if config.trainer.enable_checkpointing is False:
        raise UsageError(f"--select {metric} needs checkpoints: set trainer.enable_checkpointing")
    if not isinstance(model, LearnedModule):
        raise UsageError(
            f"--select {metric}: {type(model).__name__} reads the images once, and has no epochs"
        )
    if config.data.validation == "none":
        raise UsageError(f"--select {metric} needs held-out images: add --data.validation holdout")


def check_anomalies_for_selection(config: Namespace, held_out: Sequence[Sample]) -> None:
    """Raises UsageError if --select validation_AUROC has no held-out anomalies to look at."""
    if config.select != "validation_AUROC" or config.data.validation_anomalies:
        return
    if not any(sample.label for sample in held_out):
        raise UsageError(
            "--select validation_AUROC needs anomalies: add --data.validation_anomalies true"
        )


def check_threshold(config: Namespace, model: AnomalyModule, held_out: Sequence[Sample]) -> None:
    """Raises UsageError if a run cannot end with the threshold that it asks for."""
    method = config.threshold
    reject = config.reject
    if method is None and reject is None:
        return
    if reject is not None and (isinstance(method, int | float) or method == "f1"):
        raise UsageError(
            f"--threshold {method} rejects what lies above it: leave out --reject, or --threshold"
        )
    bad = [sample for sample in held_out if sample.label]
    good = len(held_out) - len(bad)
    anomalous = good if config.data.validation_anomalies else len(bad)
    has_chi_square = is_overridden("chi_square_threshold", model, AnomalyModule)
    chosen = check_requirements(method, reject, good, anomalous, has_chi_square)
    if isinstance(model, LearnedModule) and config.select == "last":
        check_last_epoch_is_validated(chosen, config.trainer)


def check_last_epoch_is_validated(threshold: str | None, trainer: Namespace) -> None:
    """Raises UsageError if a threshold rests on a validation that the last epoch does not have.

    Args:
        threshold: how it is chosen.
        trainer: settings of the trainer.
    """
    every = trainer.check_val_every_n_epoch or 1
    epochs = trainer.max_epochs or 0
    if threshold in BY_VALIDATION and epochs > 0 and epochs % every:
        raise UsageError(
            f"--threshold {threshold} rests on a validation of the last epoch, and after {epochs} "
            f"epochs there is none: set trainer.check_val_every_n_epoch ({every}) to a divisor of "
            "trainer.max_epochs"
        )


def uses_validation(model: Namespace, callbacks: Sequence[Callback]) -> bool:
    """Whether a held-out image can end the training, or lower its learning rate.

    Args:
        model: its settings.
        callbacks: of the trainer.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and str(callback.monitor).startswith("validation"):
            return True
    arguments = model.get("init_args") or {}
    schedule = str(arguments.get("lr_scheduler"))
    return "ReduceLROnPlateau" in schedule and "validation" in schedule


def check_precision(wanted: object, trainer: Trainer) -> None:
    """Raises UsageError if the device cannot compute in the half precision that was asked for."""
    if str(wanted).startswith("16") and not trainer.precision.startswith("16"):
        raise UsageError(
            f"trainer.precision {wanted} cannot be had on this device; ask for {trainer.precision}"
        )
