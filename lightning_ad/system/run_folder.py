"""Where a run lives on disk: `<output>/<name>/version_<n>/`, finished once `metrics.json` is there."""

import re
import shutil
from pathlib import Path
from typing import Self

from lightning_ad.errors import UsageError
from lightning_ad.system.files import replacing


class RunFolder:
    """One version of a run.

    Attributes:
        path: the folder; it exists once something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output: Path, name: str) -> Self:
        """The next version of `name`; the folder is made.

        Raises:
            UsageError: where it cannot be made.
        """
        number = max((_number(v.path) for v in cls.versions(output / name)), default=-1) + 1
        path = output / name / f"version_{number}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the run folder {path}: {error.strerror}; choose another with --output"
            ) from error
        return cls(path)

    @classmethod
    def versions(cls, folder: Path) -> list[Self]:
        """All versions below `<output>/<name>`, the oldest first."""
        found = (
            [p for p in folder.glob("version_*") if p.is_dir() and _number(p) >= 0]
            if folder.is_dir()
            else []
        )
        return [cls(p) for p in sorted(found, key=_number)]

    @classmethod
    def unfinished(cls, output: Path, name: str) -> Self:
        """The newest unfinished version of `name` that has a checkpoint or progress; where none has, the newest.

        Raises:
            UsageError: where there is none.
        """
        versions = cls.versions(output / name)
        open_ones = [v for v in versions if not v.finished]
        if not open_ones:
            there = f"all {len(versions)} are finished" if versions else "there is none at all"
            raise UsageError(
                f"no unfinished run in {output / name} to go on with: {there}. Leave out --resume"
            )
        begun = (
            v for v in reversed(open_ones) if v.last_checkpoint.is_file() or v.progress.is_dir()
        )
        return next(begun, open_ones[-1])

    @classmethod
    def find(cls, path: Path) -> Self:
        """The run at `path`: a version, or a name, of which the newest finished version is taken.

        Raises:
            UsageError: where there is no finished run.
        """
        if (path / "config.yaml").is_file():
            if not cls(path).finished:
                raise UsageError(
                    f"the run {path} is unfinished: go on with it by train.py --resume, or give a checkpoint file"
                )
            return cls(path)
        finished = [v for v in cls.versions(path) if v.finished]
        if finished:
            return finished[-1]
        if cls.versions(path):
            raise UsageError(
                f"{path} holds only unfinished runs: go on with one by train.py --resume, or give a checkpoint file"
            )
        raise UsageError(
            f"there is no run in {path}; expected a folder such as runs/patchcore-mtd, or a .ckpt file"
        )

    def discard(self) -> None:
        """Removes a folder in which nothing has run."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    @property
    def finished(self) -> bool:
        """Whether all of the run's results are there."""
        return self.metrics.is_file()

    @property
    def config(self) -> Path:
        """Everything needed to repeat the run."""
        return self.path / "config.yaml"

    def write_config(self, text: str) -> None:
        """Writes it at once or not at all."""
        with replacing(self.config) as file:
            file.write(text)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def progress(self) -> Path:
        """What a fit-only fit has done so far; gone once it is finished."""
        return self.checkpoints / "progress"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last finished epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def checkpoint(self) -> Path:
        """The one that is tested: the best epoch's where one was chosen, or else the last."""
        return self.best_checkpoint if self.best_checkpoint.is_file() else self.last_checkpoint

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch by validation, where one was asked for."""
        return self.checkpoints / "best.ckpt"

    @property
    def metrics(self) -> Path:
        """Metrics, counts, seconds, memory, versions; written last."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """One row for each test image."""
        return self.path / "predictions.csv"

    @property
    def suspects(self) -> Path:
        """The training images, the most suspicious first, where they were scored."""
        return self.path / "suspects.csv"

    @property
    def skipped(self) -> Path:
        """The images that were left out, where there were any."""
        return self.path / "skipped.csv"

    @property
    def maps(self) -> Path:
        """The folder of anomaly maps."""
        return self.path / "maps"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """The folder of the loggers."""
        return self.path / "logs"


def finished_checkpoint(target: Path) -> Path:
    """The checkpoint of a finished run, or the file itself.

    Raises:
        UsageError: where there is no finished run.
    """
    return target if target.suffix == ".ckpt" else RunFolder.find(target).checkpoint


def _number(path: Path) -> int:
    match = re.fullmatch(r"version_(\d+)", path.name)
    return int(match[1]) if match else -1
