"""Settings that runs of earlier versions do not have: what a missing one means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_ad.errors import WeightsError
from lightning_ad.system.yaml_text import NotYamlError, load_yaml

STORED = (  # in every configuration in a checkpoint
    ("model", "class_path"),
    ("data", "image_size"),
    ("data", "center_crop"),
    ("data", "tile"),
    ("trainer",),
)

# What the data of a run did before it could be set.
DATA: dict[str, Any] = {"resize": None, "bits": "legacy", "mask_reading": "legacy"}
# The same for options of a layout, in runs that could not set data.resize either.
LAYOUT_OPTIONS: dict[str, dict[str, Any]] = {"mvtec_loco": {"whole_pixels": False}}
# Settings that a run of before can go on without: its progress already says what they mean.
ADDED = ("model.init_args.kmeans_starts", "model.init_args.component_fit")


def stored_config(text: object, where: Path) -> dict[str, Any]:
    """Reads the configuration that is stored in a checkpoint, what is missing added.

    Args:
        text: what stands at its place in the checkpoint.
        where: the file, for messages.

    Raises:
        WeightsError: if it is not the configuration of a run.
    """
    if not isinstance(text, str):
        raise WeightsError(
            f"{where} is not a checkpoint of lightning_ad: it has no configuration in it"
        )
    try:
        config = load_yaml(text)
    except NotYamlError as error:
        raise WeightsError(f"the configuration in {where} is not YAML: {error}") from error
    for keys in STORED:
        if not _has(config, keys):
            raise WeightsError(
                f"{where} is not a whole checkpoint of lightning_ad: its configuration has no "
                f"{'.'.join(keys)}"
            )
    if not isinstance(config["model"]["class_path"], str):
        raise WeightsError(f"the configuration in {where} names no method: expected a class")
    return with_earlier_settings(config)


def _has(config: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True


def with_earlier_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what is missing in the stored configuration of a run: it means what was done then."""
    data = config.get("data", {})
    return {**config, "data": {**data, **missing_data_settings(config)}}


def missing_data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the data that a stored configuration lacks, as they were then."""
    data = config.get("data", {})
    missing = {name: value for name, value in DATA.items() if name not in data}
    options = LAYOUT_OPTIONS.get(data.get("layout"))
    if options and "resize" in missing:
        given = data.get("layout_options") or {}
        missing["layout_options"] = {**options, **given}
    return missing
