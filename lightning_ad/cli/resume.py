"""What `--resume` goes on with, and whether it can: settings must be those of the begun run.

A learned method goes on from the last checkpoint: weights, optimizer, schedule, averages and the
place in the epoch, after which the data module's sampler continues. A fit-only method goes on from
its progress (`methods.fit_progress`). A run that has neither begins anew, in the same folder.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.training_files import (
    TESTED,
    Digests,
    changes,
    read_digests,
    write_digests,
)
from lightning_ad.errors import UnreadableError, UsageError, UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.system.earlier_settings import (
    ADDED,
    missing_data_settings,
    with_earlier_settings,
)
from lightning_ad.system.run_folder import RunFolder

FIXED = (  # settings, or what they begin with, that a resumed run must have as it was begun
    "model",
    "data",
    "seed_everything",
    "select",
    "extend",
    "trim",
    "averaging",
    "training callbacks",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip",
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.overfit_batches",
    "trainer.min_",
    "trainer.sync_batchnorm",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval",
)
FOUND = "data.bits"
FREE = ("data.num_workers", "data.root")
COUNTED = (  # 1 is one, 1.0 is all
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.overfit_batches",
    "trainer.val_check_interval",
)
CHANGE_THE_TRAINING = ("EarlyStopping", "Scheduler", "Finder", "Finetuning", "Pruning")


@dataclass(frozen=True)
class Inputs:
    """What a run would go on with.

    Attributes:
        config: all settings, as YAML.
        training_set: the fingerprint of its training set; on the first process.
        files: digests of the files that it reads; on the first process.
    """

    config: str
    training_set: str | None = None
    files: Digests = field(default_factory=dict)


def unfinished_run(output: Path, name: str, inputs: Inputs) -> RunFolder:
    """Returns the folder of the newest unfinished run; the first process locks it.

    Args:
        output: the folder of all runs.
        name: of the run.
        inputs: what it would go on with.

    Raises:
        UsageError: if there is none, it was begun with other settings or other files, or another
            process is at it.
        WeightsError: if its checkpoint is damaged.
    """
    if rank_zero_only.rank:
        folder = RunFolder.unfinished(output, name)
        check_same(folder, inputs.config)
        return folder
    folder = RunFolder.resume(output, name)
    try:
        check_same(folder, inputs.config)
        _check_files(folder, inputs)
    except UserError:
        folder.unlock()
        raise
    if not folder.resumable:
        rank_zero_info(f"{folder.path} has no checkpoint yet: it begins anew")
    return folder


def checkpoint_to_resume(folder: RunFolder) -> Path | None:
    """Returns the checkpoint that a fit goes on from; None without one."""
    if folder.last_checkpoint.is_file():
        return folder.last_checkpoint
    return None


def settings_missing_in(folder: RunFolder) -> dict[str, Any]:
    """Returns the settings of data that a run was begun without, as they were meant then."""
    if not folder.config.is_file():
        return {}
    return missing_data_settings(yaml.safe_load(folder.config.read_text()))


def check_same(folder: RunFolder, config: str) -> None:
    """Raises UsageError if a run was begun with other settings of the method or the data."""
    if not folder.config.is_file():
        return
    before = _fixed_settings(folder.config.read_text())
    now = _fixed_settings(config)
    if now.get(FOUND) is None:  # only the first process has looked at the images yet
        now[FOUND] = before.get(FOUND)
    changed = []
    added = {key for key in ADDED if key not in before}
    for key in (before.keys() | now.keys()) - added:
        if _meaning(key, before.get(key)) != _meaning(key, now.get(key)):
            changed.append(key)
    if changed:
        key = min(changed, key=lambda key: (not key.startswith("model"), key))
        raise UsageError(
            f"the run {folder.path} was begun with {key} {_shown(before.get(key))}, now it is "
            f"{_shown(now.get(key))}: leave out --resume to begin a new run, or give the same "
            "settings"
        )


def _check_files(folder: RunFolder, inputs: Inputs) -> None:
    """Checks that a run goes on with the files that it was begun with, and writes their table.

    Raises:
        UsageError: if other files would be learned from.
        WeightsError: if the checkpoint is damaged.
    """
    if not folder.resumable:
        write_digests(folder.training_files, inputs.files)
        return
    if folder.last_checkpoint.is_file():
        _check_checkpoint(folder, inputs.training_set)
    if not folder.training_files.is_file():
        write_digests(folder.training_files, inputs.files)
        return
    changed = changes(read_digests(folder.training_files), inputs.files)
    for use, what in changed.items():
        if use not in TESTED:
            raise UsageError(
                f"the run {folder.path} was made from other {use}: {what}. Put back what was "
                "there, or leave out --resume to begin a new run"
            )
    for use, what in changed.items():
        rank_zero_warn(
            f"{use}: {what} since the run {folder.path} was begun; it is tested on those that are "
            "there now"
        )


def _check_checkpoint(folder: RunFolder, training_set: str | None) -> None:
    """Raises an error if a checkpoint is damaged, or was made from another training set."""
    path = folder.last_checkpoint
    try:
        before = read_state(path).get(ConfigInCheckpoint.TRAINING_SET)
    except UnreadableError:
        raise
    except WeightsError as error:
        raise WeightsError(
            f"{error}. The run cannot go on from it: put back a copy that is whole, or remove it, "
            "and --resume begins the run anew"
        ) from error
    if folder.training_files.is_file():
        return
    if before not in (None, training_set):
        raise UsageError(
            f"the run {folder.path} was made from other training images ({before}; now "
            f"{training_set}): put back what was there, or leave out --resume to begin a new run"
        )


def as_list(value: Any) -> list[Any]:
    """Returns a setting that may be a list, one item, or None, as a list."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    return [value]


def _fixed_settings(config: str) -> dict[str, Any]:
    """Returns the settings that may not change, by their dotted keys."""
    settings = _flat(with_earlier_settings(yaml.safe_load(config)))
    # A run that was begun with an average of the weights cannot go on without.
    callbacks = as_list(settings.get("trainer.callbacks"))
    settings["averaging"] = [c for c in callbacks if "Averaging" in c["class_path"]]
    settings["training callbacks"] = [
        c for c in callbacks if c["class_path"].endswith(CHANGE_THE_TRAINING)
    ]
    return {k: v for k, v in settings.items() if k.startswith(FIXED) and k not in FREE}


def _meaning(key: str, value: Any) -> Any:
    """Returns a value that is equal for the same setting, as for a path in another spelling."""
    if isinstance(value, str) and os.path.exists(value):
        return os.path.realpath(value)
    if key in COUNTED and isinstance(value, float) and value == 1:
        return ("all", value)
    return value


def _shown(value: Any) -> str:
    """Returns a value as a flag has it."""
    return "null" if value is None else str(value)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested settings by their dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, branch in tree.items():
        leaves |= _flat(branch, f"{prefix}.{key}" if prefix else key)
    return leaves
