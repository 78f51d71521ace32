"""The settings of a run for its method, beside the arguments that the method was made with."""

from dataclasses import dataclass
from pathlib import Path

from lightning_ad.errors import UsageError


@dataclass(frozen=True)
class RunSettings:
    """Settings of one run; given to a method once, by `AnomalyModule.configure_run`.

    Attributes:
        metrics_gb: GiB of main memory for the exact pixel metrics of each process.
        validation_used_for_selection: held-out images choose the epoch, the end of the training or
            the learning rate, so that they are no longer like new images.
        list_suspects: after the fit, score each training image as if it had not been in the fit.
            Fit-only methods.
        trim: the share of the training images, in [0, 1), that is left out: the most suspicious
            ones, which are then listed too. Fit-only methods.
        progress_folder: where a fit keeps what it has done, and goes on from; None for nowhere.
        progress_minutes: between two times that it does.
        training_set: the fingerprint of the training set; progress with another one is refused.

    Raises:
        UsageError: if `trim` is not a share.
    """

    metrics_gb: float = 4.0
    validation_used_for_selection: bool = False
    list_suspects: bool = False
    trim: float = 0.0
    progress_folder: Path | None = None
    progress_minutes: float = 10.0
    training_set: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 1:
            raise UsageError(
                f"--trim is a share of the training images, from 0 to below 1; got {self.trim}"
            )

    @property
    def scores_training_images(self) -> bool:
        """Returns whether the training images are scored after the fit."""
        return self.list_suspects or self.trim > 0
