"""`lightning-ad benchmark`: plans the cells, runs them and writes the table."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.settings import configs
from lightning_ad.commands.benchmark.cells import Cell, plan
from lightning_ad.commands.benchmark.page import write_page
from lightning_ad.commands.benchmark.running import check_cells, run_cells
from lightning_ad.commands.benchmark.slurm import job_array
from lightning_ad.commands.benchmark.table import CellResult, read_result, table_of
from lightning_ad.commands.benchmark.writing import write_tables
from lightning_ad.errors import UsageError, UserError, did_you_mean
from lightning_ad.system.names import show
from lightning_ad.system.paths import user_path
from lightning_ad.system.run_folder import RunFolder


def run(arguments: argparse.Namespace) -> int:
    """Runs, or prints, the cells, and writes the table of those that are finished.

    Returns:
        The exit code: 1 if a cell has failed.

    Raises:
        UserError: for anything that the user can put right, and if the command is stopped.
    """
    cells = _plan(arguments)
    folder = _make_folder(Path(arguments.output) / arguments.name)
    if arguments.slurm:
        print(_slurm_script(arguments, len(cells), folder), end="")
        return 0
    chosen = cells
    if arguments.cell is not None:
        chosen = [cells[arguments.cell]]
    failed: dict[Cell, str] = {}
    if not arguments.table_only:
        failed = run_cells(chosen, folder, _environments(arguments.devices))
    if arguments.cell is None:
        check_cells(cells, folder)
        _write_finished(folder, cells)
    if not failed:
        return 0
    show(
        f"error: {len(failed)} of {len(chosen)} cells failed; the same command tries them again:",
        as_error=True,
    )
    for cell, reason in failed.items():
        show(f"  {cell.name}: {reason}", as_error=True)
    return 1


def _plan(arguments: argparse.Namespace) -> list[Cell]:
    """Returns the cells; all arguments are checked before anything is written."""
    folder = configs()
    methods = _configs(arguments.methods, folder)
    data = _configs(arguments.data, folder / "data")
    seeds = _seeds(arguments.seeds)
    cells = plan(methods, data, arguments.categories, seeds, arguments.flags)
    _check_flags(cells)
    if arguments.cell is not None and not 0 <= arguments.cell < len(cells):
        raise UsageError(
            f"--cell: expected a number from 0 to {len(cells) - 1}, got {arguments.cell}"
        )
    return cells


class _ParsedRun(RunCLI):
    """Parses the flags of a run without building anything."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _set_seed(self) -> None:
        """Leaves the random generators alone."""


def _check_flags(cells: Sequence[Cell]) -> None:
    """Raises UsageError if a flag is wrong, before the first cell begins."""
    checked: set[tuple[str, str]] = set()
    for cell in cells:
        if (cell.method, cell.data) in checked:
            continue
        checked.add((cell.method, cell.data))
        try:
            _ParsedRun(cell.flags)
        except UserError as error:
            raise UsageError(f"{cell.method} on {cell.data}: {error}") from error


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}; choose another with --output"
        ) from error
    return folder


def _slurm_script(arguments: argparse.Namespace, count: int, folder: Path) -> str:
    words = [word for word in arguments.words if word != "--slurm"]
    return job_array(["lightning-ad", "benchmark", *words], count, f"{folder}/slurm-%a.txt")


def _write_finished(folder: Path, cells: Sequence[Cell]) -> None:
    """Writes the table of the cells that are finished and prints its metrics."""
    results: dict[Cell, CellResult] = {}
    reports: dict[str, Path] = {}
    for cell in cells:
        finished = [run for run in RunFolder.versions(folder / cell.name) if run.finished]
        if finished:
            results[cell] = read_result(finished[-1])
            reports[cell.name] = finished[-1].report.relative_to(folder)
    if not results:
        return
    table = table_of(results)
    files = write_tables(folder, table)
    page = folder / "index.html"
    write_page(page, f"Benchmark: {folder.name}", table, reports)
    show("\n" + files[0].read_text(encoding="utf-8", errors="surrogateescape"))
    _print_missing(cells, results)
    show(f"Tables and plots: {page}; beside it metrics and costs as .md, .csv, .tex")


def _print_missing(cells: Sequence[Cell], results: Mapping[Cell, CellResult]) -> None:
    missing = [cell.name for cell in cells if cell not in results]
    if missing:
        show(f"{len(results)} of {len(cells)} cells are finished; missing: {', '.join(missing)}")


def _environments(wanted: int | None) -> list[dict[str, str]]:
    """Returns the environment variables of the processes on each device.

    Raises:
        UsageError: for fewer devices than one, or more GPUs than there are.
    """
    gpus = torch.cuda.device_count()
    count = wanted
    if count is None:
        count = gpus or 1
    if count < 1 or (gpus and count > gpus):
        limit = f" and at most {gpus}" if gpus else ""
        raise UsageError(f"--devices must be at least 1{limit}, got {count}")
    if gpus:
        return _environments_of_gpus(count, gpus)
    if count == 1:
        return [{}]
    threads = max(1, (os.cpu_count() or 1) // count)
    return [{"OMP_NUM_THREADS": str(threads)}] * count


def _environments_of_gpus(count: int, gpus: int) -> list[dict[str, str]]:
    every = ",".join(map(str, range(gpus)))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:count]]


def _configs(text: str, folder: Path) -> list[Path]:
    """Returns the YAML files that are named between commas, by paths or by names in `folder`."""
    return [_config(name, folder) for name in _listed(text)]


def _config(name: str, folder: Path) -> Path:
    if name.endswith((".yaml", ".yml")):
        if user_path(name).is_file():
            return user_path(name)
        raise UsageError(f"there is no file {name}")
    path = folder / f"{name}.yaml"
    if path.is_file():
        return path
    known = [file.stem for file in sorted(folder.glob("*.yaml"))]
    raise UsageError(f"there is no {path}{did_you_mean(name, known)}; there is {', '.join(known)}")


def _seeds(text: str) -> list[int]:
    names = _listed(text)
    if not names or not "".join(names).isdecimal() or len({*names}) < len(names):
        raise UsageError(
            f"--seeds: expected different numbers between commas, such as 0,1,2, got {text!r}"
        )
    return list(map(int, names))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
