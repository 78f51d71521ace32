"""The arguments of the commands that do not take the flags of a run alone."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lightning_ad.errors import UsageError
from lightning_ad.system.paths import user_path

RUN_FLAGS = """flags that are passed on:
  --data.root ROOT      another place of the data; every --data.* flag of train is taken
                        (a plain folder: --data.layout_options.test_share 1 tests all good images)
  --threshold, --reject, --metrics_gb
                        as for train (docs/metrics.md); those of the run by default
  --trust PACKAGES      packages whose classes the run's configuration may name, as for train
  --trainer.devices N   several processes; every --trainer.* flag of train is taken"""
BENCHMARK = """Each cell is a run folder. The same command again goes on: finished cells are not run
again, an interrupted one continues from its checkpoint, a failed one is tried again; methods,
categories and seeds can be added.

  lightning-ad benchmark --methods patchcore,padim --data mvtec --categories all --seeds 0,1,2

All other flags are those of train. --<method>.<flag> and --<data set>.<flag> are for the cells of
one method or data set: --patchcore.model.coreset_ratio 0.01 --mvtec.data.root /data/mvtec"""


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one sentence instead of the usage.

    Attributes:
        takes_run_flags: whether flags that are not declared are kept as `flags`, for the parser of
            runs; otherwise they are errors.
        run_comes_first: whether the first word must be the run: after a flag that is not declared,
            the flag's value would be taken for it.
    """

    takes_run_flags = False
    run_comes_first = False

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parses the words after the command, and keeps them as `words`.

        Raises:
            UsageError: for a missing, unknown or impossible argument.
        """
        if self.run_comes_first:
            self._check_first(words)
        if self.takes_run_flags:
            arguments, flags = self.parse_known_args(words)
            arguments.flags = flags
        else:
            arguments = self.parse_args(words)
        arguments.words = list(words)
        return arguments

    def _check_first(self, words: Sequence[str]) -> None:
        if not words or {"-h", "--help"} & {*words}:
            return
        if words[0].startswith("-"):
            self.error(f"name the run first: expected {self.prog} RUN ..., got {words[0]}")

    def error(self, message: str) -> NoReturn:
        """Ends the parsing with a `UsageError`."""
        raise UsageError(f"{self.prog}: {message}; --help lists all arguments")


def evaluate(parser: CommandParser) -> None:
    """Adds the arguments of `lightning-ad evaluate`."""
    parser.takes_run_flags = True
    parser.usage = "%(prog)s RUN [--data.* ...] [--trainer.* ...] [--output FOLDER]"
    _add_run(parser, "run folder (runs/patchcore-mtd, or one version_<n> in it) or .ckpt file")
    parser.epilog = f"""{RUN_FLAGS}
  --output FOLDER       where the results go (default: the run folder; for a .ckpt file, runs)

evaluate.py --compare RUN_A RUN_B is lightning-ad compare, evaluate.py --verify RUN is verify."""


def compare(parser: CommandParser) -> None:
    """Adds the arguments of `lightning-ad compare`."""
    parser.add_argument("first", metavar="RUN_A", type=user_path, help="folder of a finished run")
    parser.add_argument("second", metavar="RUN_B", type=user_path, help="folder of another one")


def verify(parser: CommandParser) -> None:
    """Adds the arguments of `lightning-ad verify`."""
    parser.takes_run_flags = True
    parser.usage = "%(prog)s RUN [--data.* ...] [--trainer.* ...]"
    _add_run(parser, "folder of a finished run, which is left as it is")
    parser.epilog = f"""{RUN_FLAGS}

The exit code is 1 if a metric differs by more than 1e-6, or if other images, another preprocessing
or another checkpoint were tested."""


def datasets(parser: CommandParser) -> None:
    """Adds the arguments of `lightning-ad datasets`."""
    commands = parser.add_subparsers(dest="action", title="actions")
    check = commands.add_parser(
        "check", help="read all files of a data set and report what is wrong with them"
    )
    check.add_argument("root", type=user_path, help="folder of the data set")
    check.add_argument("--layout", help="how its folders are arranged (default: found out)")
    check.add_argument("--category", help="one category instead of all")
    check.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the layout (repeatable)",
    )
    check.add_argument(
        "--ignore", help="image, or folder of images, of the regions to ignore (data.ignore)"
    )
    check.add_argument(
        "--ignore_value", type=int, help="value of ignored pixels in the masks (data.ignore_value)"
    )
    check.add_argument(
        "--file", type=user_path, help="CSV file for all files that cannot be used, and why"
    )


def benchmark(parser: CommandParser) -> None:
    """Adds the arguments of `lightning-ad benchmark`."""
    parser.takes_run_flags = True
    parser.epilog = BENCHMARK
    parser.add_argument(
        "--methods", required=True, help="names in configs/, or YAML files, between commas"
    )
    parser.add_argument(
        "--data", required=True, help="names in configs/data/, or YAML files, between commas"
    )
    parser.add_argument(
        "--categories",
        help="all, or names between commas; required if a data set has categories",
    )
    parser.add_argument(
        "--seeds",
        default="0",
        help="values of seed_everything between commas, one run for each (default: 0)",
    )
    parser.add_argument(
        "--output", type=user_path, default="runs", help="folder of all runs (default: runs)"
    )
    parser.add_argument(
        "--name",
        default="benchmark",
        help="name of the benchmark, a folder in --output (default: benchmark)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        help="number of cells at a time: one on each GPU, or sharing the processor (default: all "
        "GPUs, or 1)",
    )
    parser.add_argument(
        "--slurm", action="store_true", help="only print a SLURM job array that runs the cells"
    )
    parser.add_argument(
        "--cell", type=int, help="run the cell of this number alone, from 0 on, and write no table"
    )
    parser.add_argument(
        "--table_only", action="store_true", help="run nothing, write the table of finished cells"
    )


def _add_run(parser: CommandParser, text: str) -> None:
    parser.run_comes_first = True
    parser.add_argument("run", metavar="RUN", type=user_path, help=text)
