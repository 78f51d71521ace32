"""`--extend`: a finished fit that takes more images; they must be seen as the first ones were."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.data.geometry import Geometry
from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.system.earlier_settings import missing_data_settings, with_earlier_settings
from lightning_ad.system.paths import places_of
from lightning_ad.system.run_folder import finished_checkpoint
from lightning_ad.system.yaml_text import NotYamlError, load_yaml

# Settings of the data.
PREPROCESSING = ("image_size", "center_crop", "resize", "tile", "tile_overlap", "bits")


def checkpoint_to_extend(run: str, method: str, data: Any) -> dict[str, Any]:
    """Reads the checkpoint of a finished run, to which images are added.

    Its `training_paths` start from this folder, if the run was started in another one.

    Args:
        run: its folder or its checkpoint.
        method: the name of the class that adds them.
        data: the settings of the data that are added.

    Raises:
        UsageError: if there is no finished run, or the images would be preprocessed differently.
        WeightsError: if the run is of another method, or was not made by a command.
    """
    checkpoint = read_state(finished_checkpoint(Path(run)))
    found = checkpoint.get("method", "something else")
    if found != method:
        raise WeightsError(
            f"--extend: {run} is a checkpoint of {found}, not of {method}: name a run of {method}"
        )
    config = checkpoint.get(ConfigInCheckpoint.KEY)
    if config is None:
        raise WeightsError(
            f"--extend: {run} has no configuration in it: name a run of lightning-ad train"
        )
    differences = preprocessing_differences(config, data)
    if differences:
        raise UsageError(
            f"--extend: {run} has seen its images with {differences}: leave these flags out, or "
            "fit anew"
        )
    folder = checkpoint.get(ConfigInCheckpoint.FOLDER, "")
    if folder != os.getcwd():
        paths = checkpoint["training_paths"]
        checkpoint["training_paths"] = [os.path.join(folder, path) for path in paths]
    return checkpoint


def missing_settings(run: str) -> dict[str, Any]:
    """Returns the settings of the data that a run to extend was made without, as they were then.

    None of a run that cannot be read: `checkpoint_to_extend` says why.
    """
    try:
        config = load_yaml(read_state(finished_checkpoint(Path(run)))[ConfigInCheckpoint.KEY])
    except (UserError, KeyError, NotYamlError):
        return {}
    return missing_data_settings(config)


def check_new_images(added: Sequence[str], known: Sequence[str], run: str) -> None:
    """Raises UsageError if images that are to be added to a run are in it already, by place."""
    known_places = {*places_of(known)}
    twice = [
        path for path, place in zip(added, places_of(added), strict=True) if place in known_places
    ]
    if twice:
        raise UsageError(
            f"{len(twice)} of the {len(added)} images that are to be added are in {run} already, "
            f"{min(twice)} first: name a folder of new good images by --data.train_folder"
        )


def preprocessing_differences(config: str, data: Any) -> str:
    """Says how a run preprocessed its images, if `data` is set differently; else an empty text.

    Args:
        config: of the run, as YAML.
        data: settings of the data.
    """
    own = with_earlier_settings(load_yaml(config))["data"]
    if _preprocessing(own) == _preprocessing(data):
        return ""
    different = [name for name in PREPROCESSING if own.get(name) != data[name]]
    return ", ".join(f"data.{name} {own.get(name)} (now {data[name]})" for name in different)


def _preprocessing(data: Any) -> tuple[object, ...]:
    """Returns values that are equal for the same preprocessing, however it is written."""
    geometry = Geometry.of(data["image_size"], data["center_crop"], data["resize"])
    tile = data["tile"]
    return (geometry, tile, tile and data["tile_overlap"], data["bits"])
