"""Keeps the configuration of a run inside its checkpoints."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_ad.system.cost import peak_memory_gib


class ConfigInCheckpoint(Callback):
    """Keeps the run's whole configuration, as YAML text, in each checkpoint: the file alone can be evaluated.

    And the fingerprint of its training set, and what the fit has cost so far.

    Attributes:
        earlier: seconds and peak memory in GiB of the fit up to the checkpoint that it went on from.
    """

    KEY = "lightning_ad_config"
    TRAINING_SET = "lightning_ad_training_set"
    COST = "lightning_ad_cost"

    def __init__(self, config: str, training_set: str | None) -> None:
        self.config, self.training_set = config, training_set
        self.earlier = {"seconds": 0.0, "host": 0.0}
        self._began = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The fit begins."""
        self._began = time.perf_counter()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes what the fit had cost."""
        self.earlier = checkpoint.get(self.COST, self.earlier)

    def spent_before(self, module: LightningModule) -> dict[str, float]:
        """`earlier`, or what the progress of a fit-only fit says."""
        seconds = self.earlier["seconds"] + getattr(module, "seconds_before", 0.0)
        return {**self.earlier, "seconds": seconds}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the text."""
        checkpoint[self.KEY], checkpoint[self.TRAINING_SET] = self.config, self.training_set
        checkpoint[self.COST] = {
            "seconds": self.spent_before(pl_module)["seconds"] + time.perf_counter() - self._began,
            "host": max(self.earlier["host"], peak_memory_gib()["host"]),
        }
        for logger in trainer.loggers:
            logger.save()  # what is logged up to here, a run that goes on from here will not log again
