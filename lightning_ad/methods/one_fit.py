"""Whether a trainer can fit a method: with one that has done its epochs, Lightning does nothing."""

from weakref import ReferenceType, WeakKeyDictionary, ref

from lightning.pytorch import LightningModule, Trainer

from lightning_ad.errors import UsageError

_fitted: WeakKeyDictionary[Trainer, ReferenceType[LightningModule]] = WeakKeyDictionary()


def check_unused(trainer: Trainer, module: LightningModule) -> None:
    """Raises UsageError if a trainer that has fitted before would not train a method in full.

    A trainer goes on with the method that it has fitted if its `max_epochs` was raised, and with a
    checkpoint that it is given.
    """
    progress = trainer.fit_loop.epoch_progress.current
    goes_on = _last_fitted(trainer) is module and not trainer.fit_loop.done
    if progress.processed and trainer.ckpt_path is None and not goes_on:
        raise UsageError(
            f"this Trainer has already fitted {progress.processed} of {trainer.max_epochs} epochs, "
            f"and would not train this {type(module).__name__} from the start: make a new Trainer "
            "for each fit"
        )
    _fitted[trainer] = ref(module)


def _last_fitted(trainer: Trainer) -> LightningModule | None:
    """Returns the method that a trainer fitted last, if it is still there."""
    found = _fitted.get(trainer)
    return None if found is None else found()
