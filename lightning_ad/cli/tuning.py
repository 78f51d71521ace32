"""Lightning's callbacks that would make another training than the configuration says: refused."""

from collections.abc import Sequence

from lightning.pytorch.callbacks import Callback

from lightning_ad.errors import UsageError

AVERAGES = "lightning_ad.callbacks.LastEpochsAveraging or StepsAveraging"
REFUSED = {  # by the name of the class; why, and what to do
    "BatchSizeFinder": (
        "would train with another batch size than the configuration says: give data.batch_size"
    ),
    "LearningRateFinder": (
        "would train with another learning rate than the configuration says: give it by "
        "model.learning_rate, or by model.optimizer"
    ),
    "StochasticWeightAveraging": (
        "leaves its average in no checkpoint, so that it would not be tested: use "
        f"{AVERAGES} in its place"
    ),
    "ModelPruning": (
        "takes weights away that the checkpoint of the method must have: leave it out"
    ),
}


def check_tuning(callbacks: Sequence[Callback]) -> None:
    """Raises UsageError for a callback whose training no checkpoint and no configuration holds."""
    for callback in callbacks:
        for kind in type(callback).__mro__:
            if kind.__name__ in REFUSED:
                raise UsageError(f"trainer.callbacks: {kind.__name__} {REFUSED[kind.__name__]}")
