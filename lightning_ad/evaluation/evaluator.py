"""Metrics of a test that are not read off a curve."""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from torch import nn

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.errors import UserError


class Evaluator(Protocol):
    """Sees each batch of a test with its prediction, and gives one or more metrics in the end.

    A test may run on several processes, each of which sees a part of the images: `compute` must
    then return the same on all of them, the metrics of all images. A `torchmetrics.Metric` does
    that by itself for the states it has declared, and moves them to the model's device: it is the
    best base of an evaluator.

    A name that begins with `image_` or `pixel_` stands among the metrics of images or of pixels.
    """

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes a batch of test images, without padding and never empty, and what was predicted."""
        ...

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all images since `reset`, by name; NaN for one that is undefined.

        It is called once a test on every process, also on one that has seen no image.
        """
        ...

    def reset(self) -> None:
        """Forgets all images."""
        ...


class Evaluators(nn.Module):
    """The evaluators of a test as one.

    Args:
        makers: what makes each, as in `catalogue.EVALUATORS`.
        taken: the names that other metrics have.
    """

    def __init__(
        self, makers: Iterable[Callable[[], Evaluator]], taken: Collection[str] = ()
    ) -> None:
        super().__init__()
        self._taken = frozenset(taken)
        self._evaluators = [make() for make in makers]
        # An evaluator need not be a module; one that is must move to the model's device.
        modules = [one for one in self._evaluators if isinstance(one, nn.Module)]
        self._moved_with_model = nn.ModuleList(modules)

    def update(self, batch: Batch, prediction: Prediction) -> None:
        for evaluator in self._evaluators:
            evaluator.update(batch, prediction)

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all, by name.

        Raises:
            UserError: two metrics have the same name.
        """
        found: dict[str, float] = {}
        for evaluator in self._evaluators:
            for name, value in evaluator.compute().items():
                if name in found or name in self._taken:
                    raise UserError(f"two metrics have the name '{name}': rename one of them")
                found[name] = float(value)
        return found

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()
