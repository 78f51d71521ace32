"""A run in a process of its own, as series of runs and benchmarks start them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_ad.system.signals import PARENT

PACKAGE = Path(__file__).parents[2]


def start_training(
    flags: Sequence[str], more: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """`lightning-ad train` with these flags; it is told to stop once this process is gone.

    Args:
        flags: of the run.
        more: variables of its environment.
        options: of `subprocess.Popen`.
    """
    paths = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, PARENT: str(os.getpid()), **(more or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_ad", "train", *flags], env=environment, **options
    )
