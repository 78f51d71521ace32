"""How long the commands take to answer --help, beside `import torch, lightning`.

The commands take turns; a round that reads the files from the disk comes first and does not count.
Bytecode is cached, as in an installation. CPU seconds depend less on what else the machine does.

python benchmarks/startup.py [--rounds 5]
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BASE = "import torch, lightning"
COMMANDS = {
    BASE: ["-c", BASE],
    "import lightning_ad": ["-c", "import lightning_ad"],
    "train.py --help": [f"{ROOT}/train.py", "--help"],
    "evaluate.py --help": [f"{ROOT}/evaluate.py", "--help"],
    "lightning-ad --help": ["-m", "lightning_ad", "--help"],
}
for word in ("evaluate", "compare", "verify", "datasets", "benchmark", "preview"):
    COMMANDS[f"lightning-ad {word} --help"] = ["-m", "lightning_ad", word, "--help"]


class Cost(NamedTuple):
    """What a command took, in seconds."""

    wall: float
    cpu: float


def cost(command: list[str]) -> Cost:
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    cpu_before = children_cpu()
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    return Cost(time.perf_counter() - begin, children_cpu() - cpu_before)


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    costs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            costs[name].append(cost(command))
    base = typical(costs[BASE])
    print(f"{'':<30} {'s':>6} {'CPU s':>6} {'ratio':>6} {'of CPU':>6}")
    for name, found in costs.items():
        wall, cpu = typical(found)
        ratios = f"{wall / base.wall:>6.2f} {cpu / base.cpu:>6.2f}"
        print(f"{name:<30} {wall:>6.2f} {cpu:>6.2f} {ratios}")


def typical(found: list[Cost]) -> Cost:
    """Returns the medians, without the first round."""
    walls, cpus = zip(*found[1:], strict=True)
    return Cost(median(walls), median(cpus))


if __name__ == "__main__":
    main()
