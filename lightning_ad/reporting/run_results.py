"""Everything that a run found, as one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_ad.data.checking import Fault
from lightning_ad.evaluation.bootstrap import Intervals
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.methods.suspects import Suspect
from lightning_ad.reporting.tables import ImageResult

Line = tuple[list[float], list[float]]  # x and y of its points


@dataclass(frozen=True)
class RunResults:
    """The results of a tested run: all that is written, shown or printed, except the pictures.

    Attributes:
        method: the name of its class.
        data_set: the name of the data set, with the category if it has some.
        metrics: by name, those of the catalogue first; NaN if a metric cannot be computed.
        rows: one for each test image.
        plots: x and y of each curve, by a key of the catalogue's `PLOTS`.
        training: steps and values of each quantity that was logged in training, by name.
        facts: method, data set, counts, seconds, device, versions, as the report lists them.
        config: the configuration as YAML.
        threshold: the score above which the run calls an image anomalous; None without one.
        intervals: 95 % intervals, by metric.
        bounds: bounds of the exact pixel metrics, by name; empty if the metrics are exact.
        details: results beside the metrics (`evaluation.breakdown`).
        suspects: the training images, the most suspicious first; None if they were not scored.
        skipped: images that could not be used.
        small_defects: paths of test images whose mask has no defective pixel left at this size.
        has_localization: whether maps say where an anomaly is; if not, they repeat the score.
        image_size: height and width in pixels, as the network sees the images.
        counts: numbers of images.
        protocol: how the metrics were measured (`provenance.protocol`).
        environment: device, processes, versions, revision, training set and checkpoint.
    """

    method: str
    data_set: str
    metrics: dict[str, float]
    rows: list[ImageResult]
    plots: dict[str, Line]
    training: dict[str, Line]
    facts: dict[str, str]
    config: str
    threshold: Threshold | None = None
    intervals: Intervals = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    suspects: Sequence[Suspect] | None = None
    skipped: Sequence[Fault] = ()
    small_defects: Sequence[str] = ()
    has_localization: bool = True
    image_size: tuple[int, int] = (0, 0)
    counts: dict[str, int] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.method} on {self.data_set}"

    @property
    def by_defect(self) -> dict[str, dict[str, float]]:
        """The metrics of the good images and those of one kind of defect, by kind and name."""
        return self.details.get("by_defect", {})

    @property
    def by_defect_intervals(self) -> dict[str, Intervals]:
        """The 95 % intervals of `by_defect`."""
        return self.details.get("by_defect_intervals", {})
