"""What `--resume` goes on with, and whether it can: settings must be those of the begun run.

A learned method goes on from the last checkpoint: weights, optimizer, schedule, averages and the
place in the epoch, after which the data module's sampler continues. A fit-only method goes on from
its progress (`methods.fit_progress`). A run that has neither begins anew, in the same folder.
"""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_ad.errors import UsageError
from lightning_ad.system.earlier_settings import ADDED, with_earlier_settings
from lightning_ad.system.run_folder import RunFolder

FIXED = (  # settings, or what they begin with, that a resumed run must have as it was begun
    "model",
    "data",
    "seed_everything",
    "select",
    "extend",
    "trim",
    "averaging",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip",
    "trainer.limit_train_batches",
    "trainer.sync_batchnorm",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval",
)
FREE = ("data.num_workers", "data.root")
COUNTED = ("trainer.limit_train_batches", "trainer.val_check_interval")  # 1 is one, 1.0 is all


def unfinished_run(output: Path, name: str, config: str) -> RunFolder:
    """Returns the folder of the newest unfinished run; the first process locks it.

    Args:
        output: the folder of all runs.
        name: of the run.
        config: as YAML, all settings that it would go on with.

    Raises:
        UsageError: if there is none, it was begun with other settings, or another process is at it.
    """
    if rank_zero_only.rank:
        folder = RunFolder.unfinished(output, name)
        check_same(folder, config)
        return folder
    folder = RunFolder.resume(output, name)
    try:
        check_same(folder, config)
    except UsageError:
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


def check_same(folder: RunFolder, config: str) -> None:
    """Raises UsageError if a run was begun with other settings of the method or the data."""
    if not folder.config.is_file():
        return
    before = _fixed_settings(folder.config.read_text())
    now = _fixed_settings(config)
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
    return {k: v for k, v in settings.items() if k.startswith(FIXED) and k not in FREE}


def _meaning(key: str, value: Any) -> Any:
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
