"""What reporting asks of a run that was tested."""

from pathlib import Path
from typing import Protocol

from lightning.pytorch import Trainer

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.recorder import TestRecorder
from lightning_ad.system.run_folder import RunFolder


class TestedRun(Protocol):
    """A run that was tested.

    Attributes:
        recorder: a callback of `trainer`.
        folder: where the results go.
        config_text: the configuration as YAML.
        checkpoint: the file whose weights were tested.
        dashboard_images: how many images of a set the dashboards show.
        revision: of the code (`provenance.revision`).
        training_set: its fingerprint; None if it is not known.
    """

    trainer: Trainer
    model: AnomalyModule
    datamodule: AnomalyDataModule
    recorder: TestRecorder
    folder: RunFolder
    config_text: str
    checkpoint: Path
    dashboard_images: int
    revision: str | None
    training_set: str | None
