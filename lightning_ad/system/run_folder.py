"""Where a run is on disk: `<output>/<name>/version_<n>/`, finished once `metrics.json` is there."""

import re
import shutil
from pathlib import Path
from typing import Self

from lightning_ad.errors import UsageError
from lightning_ad.system.files import remove_parts, replacing, sync_folder
from lightning_ad.system.folder_lock import FolderIsLockedError, FolderLock
from lightning_ad.system.names import is_utf8, stays_below
from lightning_ad.system.paths import user_path


class RunFolder:
    """The files of one version of a run.

    Attributes:
        path: the folder; it exists once something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, output: Path, name: str) -> Self:
        """Makes the folder of the next version of `name`, which no other process makes too.

        Raises:
            UsageError: if it cannot be made, or the name leads out of `output`.
        """
        if not stays_below(name):
            raise UsageError(
                f"a run cannot be called {name}: its name is a folder in {output}; choose its "
                "place by --output"
            )
        if not is_utf8(str(output / name)):
            raise UsageError(
                f"the run folder {output / name} is not UTF-8, and PyTorch and TensorBoard write "
                "to no other: choose another output folder or name"
            )
        numbers = [_number(version.path) for version in cls.versions(output / name)]
        number = max(numbers, default=-1)
        while True:
            number += 1
            path = output / name / f"version_{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UsageError(
                    f"cannot make the run folder {path}: {error.strerror}; choose another output "
                    "folder"
                ) from error
            sync_folder(path.parent)
            return cls(path)

    @classmethod
    def begin(cls, output: Path, name: str) -> Self:
        """Makes the folder of the next version of `name` and locks it.

        Raises:
            UsageError: if it cannot be made.
        """
        while True:
            folder = cls.create(output, name)
            try:
                folder.lock()
            except FolderIsLockedError:  # another process resumes it already
                continue
            return folder

    @classmethod
    def resume(cls, output: Path, name: str) -> Self:
        """Locks the newest unfinished version of `name`, as `unfinished` finds it.

        What a killed process has left incomplete is removed.

        Raises:
            UsageError: if there is none, or another process is at it.
        """
        while True:
            folder = cls.unfinished(output, name)
            folder.lock()
            if not folder.finished:
                break
            folder.unlock()  # by another process, just now
        remove_parts(folder.path)
        remove_parts(folder.checkpoints)
        for progress in folder.progress.glob("*"):
            remove_parts(progress)
        return folder

    def lock(self) -> None:
        """Keeps other processes from working in the folder, until `unlock` or the process's end.

        Raises:
            FolderIsLockedError: if another process does; says which one.
        """
        self._lock = FolderLock.take(self.path)

    def unlock(self) -> None:
        """Gives the folder back; does nothing if it is not locked."""
        if self._lock is not None:
            self._lock.release()

    @classmethod
    def versions(cls, folder: Path) -> list[Self]:
        """Returns all versions in `<output>/<name>`, the oldest first."""
        found = [path for path in folder.glob("version_*") if path.is_dir() and _number(path) >= 0]
        return [cls(path) for path in sorted(found, key=_number)]

    @classmethod
    def unfinished(cls, output: Path, name: str) -> Self:
        """Returns the newest unfinished version of `name` that can be resumed, or else the newest.

        Raises:
            UsageError: if there is none.
        """
        versions = cls.versions(output / name)
        unfinished = [version for version in versions if not version.finished]
        if not unfinished:
            found = f"all {len(versions)} are finished" if versions else "it holds no run"
            raise UsageError(
                f"no unfinished run in {output / name} to resume: {found}; start a new one"
            )
        for version in reversed(unfinished):
            if version.resumable:
                return version
        return unfinished[-1]

    @classmethod
    def find(cls, path: Path) -> Self:
        """Returns the run at `path`: a version, or the newest finished version of a name.

        Raises:
            UsageError: if there is no finished run.
        """
        path = user_path(path)
        if (path / "config.yaml").is_file():
            if not cls(path).finished:
                raise UsageError(
                    f"the run {path} is unfinished: resume it, or give a checkpoint file"
                )
            return cls(path)
        versions = cls.versions(path)
        for version in reversed(versions):
            if version.finished:
                return version
        if versions:
            raise UsageError(
                f"{path} holds only unfinished runs: resume one, or give a checkpoint file"
            )
        raise UsageError(
            f"there is no run in {path}; expected a folder such as runs/patchcore-mtd, "
            "or a .ckpt file"
        )

    def discard(self) -> None:
        """Removes a folder in which nothing has run."""
        self.unlock()
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    @property
    def finished(self) -> bool:
        """True if all of the run's results are there."""
        return self.metrics.is_file()

    @property
    def resumable(self) -> bool:
        """True if the run can continue from a checkpoint or from the progress of a fit."""
        return self.last_checkpoint.is_file() or self.progress.is_dir()

    @property
    def config(self) -> Path:
        """The file with everything needed to repeat the run."""
        return self.path / "config.yaml"

    def write_config(self, text: str) -> None:
        """Writes the configuration whole or not at all."""
        with replacing(self.config) as file:
            file.write(text)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def progress(self) -> Path:
        """The folder with the progress of a fit-only method; removed once the fit is finished."""
        return self.checkpoints / "progress"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last finished epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is tested: the best epoch's if one was chosen, or else the last."""
        return self.best_checkpoint if self.best_checkpoint.is_file() else self.last_checkpoint

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch by validation, if one was asked for."""
        return self.checkpoints / "best.ckpt"

    @property
    def metrics(self) -> Path:
        """The file of metrics, counts, seconds, memory and versions; written last."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """The table with a row for each test image."""
        return self.path / "predictions.csv"

    @property
    def suspects(self) -> Path:
        """The table of the training images, the most suspicious first, if they were scored."""
        return self.path / "suspects.csv"

    @property
    def training_files(self) -> Path:
        """The table of the files that the run was begun with (`cli.training_files`)."""
        return self.path / "training_files.csv"

    @property
    def skipped(self) -> Path:
        """The table of the images that were left out, if there were any."""
        return self.path / "skipped.csv"

    @property
    def maps(self) -> Path:
        return self.path / "maps"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


def finished_checkpoint(target: Path) -> Path:
    """Returns the checkpoint of a finished run, or the checkpoint file itself.

    Raises:
        UsageError: if there is no finished run.
    """
    if target.suffix == ".ckpt":
        return user_path(target)
    return RunFolder.find(target).checkpoint


def _number(path: Path) -> int:
    """Returns the number of a version; -1 for another folder."""
    match = re.fullmatch(r"version_(\d+)", path.name)
    if match is None:
        return -1
    return int(match[1])
