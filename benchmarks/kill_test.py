"""Kills runs at random moments, resumes them, and compares the results with an undisturbed run.

    python benchmarks/kill_test.py --kills 50 --seed 0

A run is killed (SIGKILL) up to four times, then left to end: its checkpoint and its metrics must be
those of the undisturbed run, bit for bit. After each kill, every checkpoint there must load whole.
The runs are small, of 12 epochs on a drawn data set (PatchCore keeps its progress at every step).
Two run at a time, each on one thread, in processes that have imported everything, so that kills hit
the run and not its imports. Exits with 1 if anything differs.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/helpers"))
from runs import flags  # noqa: E402
from scripts import ScriptServer  # noqa: E402
from trees import mvtec_tree  # noqa: E402

from lightning_ad.features.weights import read_state  # noqa: E402

METHODS = ["DRAEM", "PFM", "CFA", "PatchCore"]
EPOCHS = ["--trainer.max_epochs", "12"]
KILLS_OF_A_RUN = 4


def command(
    method: str, trees: dict[str, Path], output: Path, name: str, resume: bool
) -> list[str]:
    args = [*flags(method, "mvtec", trees, output), "--name", name, "--progress_minutes", "0"]
    args += ["--data.batch_size", "1"] if method == "PatchCore" else EPOCHS
    return [f"{ROOT}/train.py", *args, *(["--resume"] if resume else [])]


def result(folder: Path) -> tuple[dict, dict]:
    """Returns the weights and metrics of a finished run."""
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state, json.loads((folder / "metrics.json").read_text())["metrics"]


def same(one: tuple[dict, dict], other: tuple[dict, dict]) -> bool:
    weights = one[0].keys() == other[0].keys() and all(
        torch.equal(v, other[0][k]) for k, v in one[0].items()
    )
    return weights and one[1] == other[1]


def finish(server: ScriptServer, argv: list[str], what: str) -> None:
    ended, code, _, said = server.run(argv, 600)
    if code or not ended:
        raise RuntimeError(f"{what}: exit code {code}\n{said[-1500:]}")


def trial(
    method: str, kills: int, seed: int, trees: dict[str, Path], output: Path, server: ScriptServer
) -> str:
    """Kills runs of a method; returns a line of text about what happened."""
    rng = random.Random(f"{method} {seed}")
    undisturbed = command(method, trees, output, f"{method}-quiet", False)
    begin = time.perf_counter()
    finish(server, undisturbed, f"{method}, undisturbed")
    life = time.perf_counter() - begin
    quiet = result(output / f"{method}-quiet/version_0")
    done = runs = resumed = kept = 0
    while done < kills:
        name = f"{method}-{runs}"
        for _ in range(min(rng.randint(1, KILLS_OF_A_RUN), kills - done)):
            there = (output / name).is_dir()
            argv = command(method, trees, output, name, resume=there)
            ended, code, _, said = server.run(argv, rng.uniform(0, life))
            if ended and code:
                raise RuntimeError(f"{method}, run {runs}: exit code {code}\n{said[-1500:]}")
            if ended:
                break
            done, resumed = done + 1, resumed + there
            files = list((output / name).rglob("*.ckpt"))
            for file in files:
                read_state(file)  # whole, with its checksums
            kept += bool(files)
            if (output / name / "version_0/metrics.json").is_file():
                break  # killed when all was done
        finished = (output / name / "version_0/metrics.json").is_file()
        if not finished:
            argv = command(method, trees, output, name, resume=(output / name).is_dir())
            finish(server, argv, f"{method}, run {runs}")
        (folder,) = (output / name).iterdir()
        if not same(result(folder), quiet):
            raise RuntimeError(f"{method}: run {runs} did not end as the undisturbed one")
        runs += 1
    return (
        f"{method:<10} {done} kills of {runs} runs that live {life:.0f} s "
        f"({resumed} of runs that had been resumed, {kept} with checkpoints or progress there): "
        "every run ended bit for bit as the undisturbed one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    shares = [
        args.kills // len(args.methods) + (i < args.kills % len(args.methods))
        for i in range(len(args.methods))
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        trees = {"mvtec": mvtec_tree(Path(folder) / "mvtec")}
        tasks = [
            pool.submit(
                trial, method, kills, args.seed, trees, Path(folder) / "runs", ScriptServer()
            )
            for method, kills in zip(args.methods, shares, strict=True)
        ]
        for task in tasks:
            print(task.result(), flush=True)


if __name__ == "__main__":
    main()
