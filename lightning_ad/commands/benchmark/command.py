"""`lightning-ad benchmark`: methods on data sets with several seeds, and one table."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_ad.cli.parser import nearest
from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.settings import configs
from lightning_ad.commands.benchmark.cells import Cell, plan
from lightning_ad.commands.benchmark.page import write_page
from lightning_ad.commands.benchmark.running import check_cells, run_cells
from lightning_ad.commands.benchmark.slurm import job_array
from lightning_ad.commands.benchmark.table import circumstances, reservations, result, rows
from lightning_ad.commands.benchmark.writing import write_tables
from lightning_ad.errors import UsageError, UserError
from lightning_ad.system.run_folder import RunFolder

ABOUT = """Runs methods on data sets with several seeds, and writes one table: metrics with intervals over seeds, costs,
and what was published. Each cell is a run folder. The same command again goes on: finished cells are not run again, a
cell that was interrupted goes on from its checkpoint, one that failed is tried again; methods, categories and seeds can
be added.

  lightning-ad benchmark --methods patchcore,padim --data mvtec --categories all --seeds 0,1,2

All other flags are those of train.py. --<method>.<flag> and --<data set>.<flag> are for the cells of one method or data
set: --patchcore.model.coreset_ratio 0.01 --mvtec.data.root /data/mvtec"""


def benchmark(args: Sequence[str]) -> int:
    """Runs, or prints, the cells, and writes the table of what is finished.

    Returns:
        The exit code: 1 where a cell has failed.

    Raises:
        UserError: for whatever the user can put right, and where it was told to stop.
    """
    wanted, flags = _parser().parse_known_args(args)
    methods = [_config(name, configs()) for name in _listed(wanted.methods)]
    data = [_config(name, configs() / "data") for name in _listed(wanted.data)]
    cells = plan(methods, data, wanted.categories, _seeds(wanted.seeds), flags)
    _check_flags(cells)
    folder = Path(wanted.output) / wanted.name
    chosen = cells if wanted.cell is None else [_at(cells, wanted.cell)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}; choose another with --output"
        ) from error
    if wanted.slurm:
        typed = ["lightning-ad", "benchmark", *(arg for arg in args if arg != "--slurm")]
        print(job_array(typed, len(cells), f"{folder}/slurm-%a.txt"), end="")
        return 0
    failed = {} if wanted.table_only else run_cells(chosen, folder, _devices(wanted.devices))
    if wanted.cell is None:
        check_cells(cells, folder)
        _write(folder, cells)
    if failed:
        print(
            f"error: {len(failed)} of {len(chosen)} cells failed; the same command tries them again:",
            file=sys.stderr,
        )
        print("\n".join(f"  {cell.name}: {why}" for cell, why in failed.items()), file=sys.stderr)
    return 1 if failed else 0


class _Parsed(RunCLI):
    """Parses the flags of a run, and makes nothing of them."""

    def instantiate_classes(self) -> None:
        """Nothing is made."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""


def _check_flags(cells: Sequence[Cell]) -> None:
    """Raises UsageError where a flag is wrong, before the first cell begins."""
    for (method, data), cell in {(cell.method, cell.data): cell for cell in cells}.items():
        try:
            _Parsed(cell.flags)
        except UserError as error:
            raise UsageError(f"{method} on {data}: {error}") from error


def _write(folder: Path, cells: Sequence[Cell]) -> None:
    """The table of the cells that are finished."""
    found, reports = {}, {}
    for cell in cells:
        if finished := [
            version for version in RunFolder.versions(folder / cell.name) if version.finished
        ]:
            found[cell], reports[cell.name] = (
                result(finished[-1]),
                finished[-1].report.relative_to(folder),
            )
    if not found:
        return
    table, told, beside = rows(found), reservations(found), circumstances(found)
    files = write_tables(folder, table, told, beside)
    write_page(folder / "index.html", f"Benchmark: {folder.name}", table, told, beside, reports)
    print("\n" + files[0].read_text())
    if missing := [cell.name for cell in cells if cell not in found]:
        print(f"{len(found)} of {len(cells)} cells are finished; missing: {', '.join(missing)}")
    print(
        f"Tables and plots: {folder / 'index.html'}; beside it metrics and costs as .md, .csv, .tex"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-ad benchmark", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--methods", required=True, help="names in configs/, or YAML files, between commas"
    )
    parser.add_argument(
        "--data", required=True, help="names in configs/data/, or YAML files, between commas"
    )
    parser.add_argument(
        "--categories",
        help="of the data sets that have some, which then must be named: all, or names between commas",
    )
    parser.add_argument(
        "--seeds",
        default="0",
        help="one run for each, between commas: its seed_everything (default: 0)",
    )
    parser.add_argument("--output", default="runs", help="the folder of all runs (default: runs)")
    parser.add_argument(
        "--name", default="benchmark", help="of the benchmark, a folder there (default: benchmark)"
    )
    parser.add_argument(
        "--devices",
        type=int,
        help="cells at a time: one on each GPU, or sharing the processor (default: all GPUs, or 1)",
    )
    parser.add_argument(
        "--slurm", action="store_true", help="print a SLURM job array that runs the cells, and end"
    )
    parser.add_argument(
        "--cell", type=int, help="run this one alone, from 0 on, and write no table"
    )
    parser.add_argument(
        "--table_only", action="store_true", help="run nothing, write the table of what is finished"
    )
    return parser


def _devices(wanted: int | None) -> list[dict[str, str]]:
    """The environment of the processes on each device.

    Raises:
        UsageError: for fewer than one, or for more GPUs than there are.
    """
    there = torch.cuda.device_count()
    count = wanted if wanted is not None else there or 1
    if count < 1 or (there and count > there):
        raise UsageError(
            f"--devices must be at least 1{f' and at most {there}' if there else ''}; {count} came"
        )
    if there:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")
        return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:count]]
    threads = max(1, (os.cpu_count() or 1) // count)
    return [{"OMP_NUM_THREADS": str(threads)} if count > 1 else {} for _ in range(count)]


def _config(name: str, folder: Path) -> Path:
    """A YAML file by its path, or by its name in `folder`."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"there is no file {name}")
    if (path := folder / f"{name}.yaml").is_file():
        return path
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UsageError(f"there is no {path}{nearest(name, known)}; there is {', '.join(known)}")


def _seeds(text: str) -> list[int]:
    seeds = _listed(text)
    if not seeds or not all(seed.isdecimal() for seed in seeds) or len({*seeds}) < len(seeds):
        raise UsageError(
            f"--seeds takes different numbers between commas, such as 0,1,2; {text!r} came"
        )
    return [int(seed) for seed in seeds]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _at(cells: Sequence[Cell], number: int) -> Cell:
    if not 0 <= number < len(cells):
        raise UsageError(f"--cell must be from 0 to {len(cells) - 1}; {number} came")
    return cells[number]
