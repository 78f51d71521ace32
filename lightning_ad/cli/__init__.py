"""From flags and YAML to a model, its data and a trainer."""

from lightning_ad.cli.evaluate import EvaluateCLI
from lightning_ad.cli.run import RunCLI

__all__ = ["EvaluateCLI", "RunCLI"]
