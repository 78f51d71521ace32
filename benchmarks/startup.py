"""How long the command lines take to answer --help, as a ratio to `import torch, lightning`, taking turns.

python benchmarks/startup.py [--rounds 5]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "import torch, lightning": ["-c", "import torch, lightning"],
    "train.py --help": [f"{ROOT}/train.py", "--help"],
    "lightning-ad --help": ["-m", "lightning_ad", "--help"],
}


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # the first one reads the files from the disk, and does not count
        for name, command in COMMANDS.items():
            found[name].append(seconds(command))
    base, *rest = [(name, median(values[1:])) for name, values in found.items()]
    print(f"{base[0]:<24} {base[1]:.1f} s")
    for name, value in rest:
        print(f"{name:<24} {value:.1f} s, {value / base[1]:.2f} times as long")


if __name__ == "__main__":
    main()
