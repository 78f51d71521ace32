"""Whether a run can be gone on with: its settings must be those that it was begun with."""

from typing import Any

import yaml

from lightning_ad.errors import UsageError
from lightning_ad.system.run_folder import RunFolder

FIXED = (
    *("model", "data", "seed_everything", "select", "extend", "trim", "averaging"),
    *(
        "trainer.max_epochs",
        "trainer.max_steps",
        "trainer.precision",
        "trainer.accumulate_grad_batches",
    ),
    *("trainer.gradient_clip", "trainer.limit_train_batches", "trainer.sync_batchnorm"),
    *(
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.check_val_every_n_epoch",
        "trainer.val_check_interval",
    ),
)
FREE = ("data.num_workers", "data.root")
COUNTED = (
    "trainer.limit_train_batches",
    "trainer.val_check_interval",
)  # 1 is one batch, 1.0 all of them


def check_same(folder: RunFolder, config: str) -> None:
    """Raises UsageError where --resume would go on with other settings of the method or the data."""
    if not folder.config.is_file():
        return
    before, now = (_flat(yaml.safe_load(text)) for text in (folder.config.read_text(), config))
    for settings in (
        before,
        now,
    ):  # a run begun with an average of the weights cannot go on without
        callbacks = listed(settings.get("trainer.callbacks"))
        settings["averaging"] = [c for c in callbacks if "Averaging" in c["class_path"]]
    fixed = [k for k in sorted({*before, *now}) if k.startswith(FIXED)]
    changed = [
        k for k in fixed if k not in FREE and _meaning(k, before.get(k)) != _meaning(k, now.get(k))
    ]
    if changed:
        key = min(changed, key=lambda k: (not k.startswith("model"), k))
        raise UsageError(
            f"the run {folder.path} was begun with {key} {before.get(key)}, now it is {now.get(key)}: "
            "leave out --resume to begin a new run, or give the same settings"
        )


def listed(value: Any) -> list[Any]:
    """A list of what may be a list, one of them, or None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _meaning(key: str, value: Any) -> Any:
    return ("all", value) if key in COUNTED and isinstance(value, float) and value == 1 else value


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for key, sub in tree.items()
        for k, v in _flat(sub, f"{prefix}.{key}" if prefix else key).items()
    }
