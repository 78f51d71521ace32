"""Settings that runs of earlier versions do not have: what a missing one means."""

from collections.abc import Mapping
from typing import Any

# What the data of a run did before it could be set.
DATA: dict[str, Any] = {"resize": None, "bits": "legacy", "mask_reading": "legacy"}
# The same for options of a layout, in runs that could not set data.resize either.
LAYOUT_OPTIONS: dict[str, dict[str, Any]] = {"mvtec_loco": {"whole_pixels": False}}
# Settings that a run of before can go on without: its progress already says what they mean.
ADDED = ("model.init_args.kmeans_starts", "model.init_args.component_fit")


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
