"""Keeps the configuration of a run inside its checkpoints."""

import os
import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_ad.methods.base import AnomalyModule
from lightning_ad.system.checkpoints import CONFIG_KEY
from lightning_ad.system.cost import peak_memory_gib


class ConfigInCheckpoint(Callback):
    """Keeps the run's configuration, as YAML text, in each checkpoint: the file alone is enough.

    Adds the folder in which the run was started, the fingerprint of the training set, what the fit
    has cost so far, and whether it has ended early: a run that goes on from there does not train
    any further.

    Args:
        config: the whole configuration.
        training_set: the fingerprint of the training set; None if it is not known.

    Attributes:
        earlier: `seconds` and peak memory (`host`, in GiB) of the fit up to the checkpoint that it
            continues from.
    """

    KEY = CONFIG_KEY
    FOLDER = "lightning_ad_folder"  # from which relative paths start
    TRAINING_SET = "lightning_ad_training_set"
    COST = "lightning_ad_cost"
    ENDED = "lightning_ad_ended"

    def __init__(self, config: str, training_set: str | None) -> None:
        self.config = config
        self.training_set = training_set
        self.earlier = {"seconds": 0.0, "host": 0.0}
        self._began = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: AnomalyModule, stage: str) -> None:
        """Starts the clock of the fit."""
        self._began = time.perf_counter()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: AnomalyModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reads what the fit had cost; one that has ended early stays ended."""
        self.earlier = checkpoint.get(self.COST, self.earlier)
        trainer.should_stop = checkpoint.get(self.ENDED, False)

    def spent_before(self, module: AnomalyModule) -> dict[str, float]:
        """Returns `earlier`, plus the seconds in the progress of a fit-only method."""
        return {**self.earlier, "seconds": self.earlier["seconds"] + module.seconds_before}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: AnomalyModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds configuration, folder, fingerprint, cost, and whether the fit has ended."""
        checkpoint[self.KEY] = self.config
        checkpoint[self.FOLDER] = os.getcwd()
        # Early stopping, a time limit or any other callback has decided so before the epoch's end;
        # Lightning goes on until trainer.min_epochs, before and after a resumption.
        checkpoint[self.ENDED] = trainer.should_stop
        checkpoint[self.TRAINING_SET] = self.training_set
        before = self.spent_before(pl_module)["seconds"]
        checkpoint[self.COST] = {
            "seconds": before + time.perf_counter() - self._began,
            "host": max(self.earlier["host"], peak_memory_gib()["host"]),
        }
        for logger in trainer.loggers:
            # What is logged up to here, a run that goes on from here will not log again.
            logger.save()
