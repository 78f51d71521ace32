"""The flags of a run that are ours, beside those of model, data and trainer."""

from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ad.evaluation.thresholds import Method


def add_flags(parser: LightningArgumentParser) -> None:
    """Adds them, and links the seeds of data and model to `seed_everything`."""
    parser.add_argument(
        "--name", type=str | None, default=None, help="of the run; <method>-<data set>-<category>"
    )
    parser.add_argument("--output", type=str, default="runs", help="the folder of all runs")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the newest unfinished run of that name, in place",
    )
    parser.add_argument(
        "--select",
        type=Literal["last", "validation_loss", "validation_AUROC"],
        default="last",
        help="the epoch that is tested: the last, or the best by held-out good images (data.validation) or by "
        "synthetic anomalies on them (data.validation_anomalies)",
    )
    parser.add_argument(
        "--metrics_gb",
        type=PositiveFloat,
        default=4.0,
        help="main memory for the exact pixel metrics of each process; above it, pixels are counted in bins, and "
        "the bounds of the exact metrics are stated",
    )
    parser.add_argument(
        "--reject",
        type=float | None,
        default=None,
        help="the share of good parts that may be called anomalous, kept by held-out good images (data.validation) "
        "whatever their scores; 0.01 where there are enough of them",
    )
    parser.add_argument(
        "--threshold",
        type=Method | float | None,
        default=None,
        help="how the score is chosen above which an image is called anomalous: conformal (default) or quantile, by "
        "held-out good images; f1, by labelled validation images; chi2 (Mahalanobis AD); or a number",
    )
    parser.add_argument(
        "--dashboard_images",
        type=NonNegativeInt,
        default=8,
        help="how many validation and test images TensorBoard, W&B or MLflow show, with heat maps, at each evaluation",
    )
    parser.add_argument(
        "--feature_cache",
        type=str | None,
        default=None,
        help="a folder in which frozen networks' features of images are kept, for runs to come with the same network",
    )
    parser.add_argument(
        "--feature_cache_gb",
        type=PositiveFloat,
        default=20.0,
        help="what that folder may hold; the oldest go first",
    )
    parser.add_argument("--compile", type=bool, default=False, help="the networks by torch.compile")
    parser.add_argument(
        "--extend",
        type=str | None,
        default=None,
        help="a finished fit-only run, to which the images are added",
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
        help="how often a fit-only method keeps what it has read and selected, for --resume to go on from",
    )
    parser.add_argument(
        "--trim",
        type=float,
        default=0.0,
        help="leave out this share of the training images, the most suspicious first, and fit anew without them",
    )
    parser.add_argument(
        "--trust",
        type=str | None,
        default=None,
        help="packages between commas, of which configurations may name classes beside lightning_ad's and Lightning's",
    )
    for target in ("data.seed", "model.init_args.seed"):
        parser.link_arguments("seed_everything", target, compute_fn=seed_number)


def seed_number(value: int | bool) -> int:
    """The seed as a number: `true` is 0, as Lightning takes it."""
    return 0 if isinstance(value, bool) else value
