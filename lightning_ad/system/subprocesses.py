"""Runs in processes of their own, as series of runs and benchmarks start them."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_ad.system.signals import PARENT

PACKAGE_ROOT = Path(__file__).parents[2]


def start_training(
    flags: Sequence[str], more: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Starts `lightning-ad train`; the run stops if this process goes away.

    Args:
        flags: of the run.
        more: variables of its environment.
        options: of `subprocess.Popen`.
    """
    paths = [str(PACKAGE_ROOT)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        PARENT: str(os.getpid()),
        **(more or {}),
    }
    command = [sys.executable, "-m", "lightning_ad", "train", *flags]
    return subprocess.Popen(command, env=environment, **options)
