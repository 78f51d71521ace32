from lightning.pytorch import Callback


class SpoilImages(Callback):
    """Makes the images of one process's training step NaN."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            batch.image.fill_(float("nan"))
