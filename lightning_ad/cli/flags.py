"""The flags of a run that are ours, beside those of the model, the data and the trainer."""

from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ad.evaluation.thresholds import ThresholdMethod


def add_flags(parser: LightningArgumentParser) -> None:
    """Adds our flags, and links the seeds of data and model to `seed_everything`."""
    _add_run_folder_flags(parser)
    _add_evaluation_flags(parser)
    _add_speed_flags(parser)
    _add_fit_only_flags(parser)
    parser.add_argument(
        "--trust",
        type=str | None,
        default=None,
        help="packages between commas whose classes flags and configurations may name, beside "
        "those of lightning_ad and Lightning",
    )
    for target in ("data.seed", "model.init_args.seed"):
        parser.link_arguments("seed_everything", target, compute_fn=seed_number)


def seed_number(value: int | bool) -> int:
    """Returns the seed as a number; `true` is 0, as for Lightning."""
    if isinstance(value, bool):
        return 0
    return value


def _add_run_folder_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="name of the run (default: <method>-<data set>-<category>)",
    )
    parser.add_argument("--output", type=str, default="runs", help="folder of all runs")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the newest unfinished run of this name, in its own folder",
    )


def _add_evaluation_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--select",
        type=Literal["last", "validation_loss", "validation_AUROC"],
        default="last",
        help="epoch that is tested: the last one, or the best one by the loss on held-out good "
        "images (data.validation) or by synthetic anomalies on them (data.validation_anomalies)",
    )
    parser.add_argument(
        "--metrics_gb",
        type=PositiveFloat,
        default=4.0,
        help="main memory, in GB, for the exact pixel metrics of each process; beyond it, pixels "
        "are counted in a histogram, and bounds of the exact metrics are reported",
    )
    parser.add_argument(
        "--reject",
        type=float | None,
        default=None,
        help="share of good parts that may be called anomalous, guaranteed by held-out good images "
        "(data.validation) whatever the distribution of their scores (default: 0.01 if there are "
        "enough of them)",
    )
    parser.add_argument(
        "--threshold",
        type=ThresholdMethod | float | None,
        default=None,
        help="how the threshold above which an image is called anomalous is chosen: conformal "
        "(default) or quantile, from held-out good images; f1, from labelled validation images; "
        "chi2 (Mahalanobis AD); or a number",
    )
    parser.add_argument(
        "--dashboard_images",
        type=NonNegativeInt,
        default=8,
        help="number of validation and test images that TensorBoard, W&B or MLflow show, with heat "
        "maps, at each evaluation",
    )


def _add_speed_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--feature_cache",
        type=str | None,
        default=None,
        help="folder that keeps the features of images, for later runs with the same frozen "
        "network",
    )
    parser.add_argument(
        "--feature_cache_gb",
        type=PositiveFloat,
        default=20.0,
        help="size limit of that folder in GB; the oldest features are removed first",
    )
    parser.add_argument(
        "--compile", type=bool, default=False, help="compile the networks with torch.compile"
    )


def _add_fit_only_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--extend",
        type=str | None,
        default=None,
        help="finished run of a fit-only method to which the images are added",
    )
    parser.add_argument(
        "--suspects",
        type=bool,
        default=False,
        help="list the suspicious training images (fit-only methods)",
    )
    parser.add_argument(
        "--progress_minutes",
        type=NonNegativeFloat,
        default=10.0,
        help="minutes between saves of what a fit-only method has read and selected; --resume "
        "continues from the last one",
    )
    parser.add_argument(
        "--trim",
        type=float,
        default=0.0,
        help="share of the training images to leave out, the most suspicious first; the method is "
        "fitted again without them",
    )
