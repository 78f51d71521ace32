"""Which code a run ran: versions of packages, and the revision of a checkout."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from lightning_ad import __version__

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "kornia", "timm")


def versions() -> dict[str, str]:
    """Of ourselves, Python and the packages that decide about numbers."""
    own = {"lightning-ad": __version__, "python": platform.python_version()}
    return {**own, **{name: version(name) for name in PACKAGES}}


def revision(folder: Path = Path(__file__).parents[2]) -> str | None:
    """The git commit of a checkout, with `+` behind it where files were changed; None where there is none."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
