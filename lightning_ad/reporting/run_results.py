"""All that a run found, as one value."""

from dataclasses import dataclass, field

from lightning_ad.evaluation.bootstrap import Intervals
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.tables import ImageResult


@dataclass(frozen=True)
class RunResults:
    """All that the report tells of a run, but for the pictures.

    Attributes:
        title: the heading.
        metrics: the eight metrics by name, each in [0, 1], or NaN where it cannot be computed.
        rows: one for each test image.
        plots: x and y of each curve, by a key of `PLOTS`.
        training: step and value of each logged quantity, by name; empty for fit-only methods.
        facts: method, data set, counts, seconds, device, versions: whatever is worth knowing.
        config: the configuration as YAML.
        threshold: above which the run calls an image anomalous; None where it has none.
        intervals: 95 % intervals of metrics, by name, where they are known.
        by_defect: metrics of the good images and those of one kind of defect, by kind and name.
        by_defect_intervals: their 95 % intervals, where they are known.
    """

    title: str
    metrics: dict[str, float]
    rows: list[ImageResult]
    plots: dict[str, tuple[list[float], list[float]]]
    training: dict[str, tuple[list[float], list[float]]]
    facts: dict[str, str]
    config: str
    threshold: Threshold | None = None
    intervals: Intervals = field(default_factory=dict)
    by_defect: dict[str, dict[str, float]] = field(default_factory=dict)
    by_defect_intervals: dict[str, Intervals] = field(default_factory=dict)
