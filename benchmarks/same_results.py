"""Shows that two checkouts give the same bits: the demo and each method are run by both.

    python benchmarks/same_results.py BEFORE AFTER --data data/mtd --train-list mtd_train.txt \
        --weights squeezenet1_1.pth

BEFORE and AFTER are folders of checkouts; only their own train.py and evaluate.py are started, so
any commit will do. Each method is trained small, on a few magnetic tiles (without --data, on the
images of the demo), in one process and in two. All values of last.ckpt, metrics.json and
predictions.csv are compared, and the maps; what may differ is listed in MAY_DIFFER. Then AFTER
evaluates the runs of BEFORE, and verifies some of them.

Finished runs of BEFORE are kept in --work: a later call makes those of AFTER alone. If AFTER is
left out, only the runs of BEFORE are made. The exit code is 1 if anything differs. Each process has
one thread.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAY_DIFFER = (
    "last.ckpt/lightning_ad_cost/*",  # seconds and memory of the fit
    "metrics.json/seconds/*",
    "metrics.json/peak_memory_gib/*",
    "metrics.json/peak_memory_gib_by_stage/*",
    "metrics.json/versions/lightning-ad",
    "metrics.json/revision",
)
MAY_DIFFER_IN_EVALUATION = ("metrics.json/counts/validation",)  # evaluate.py holds no images out
NETWORK = "--model.backbone {backbone} --model.weights {weights} "
METHODS = {
    "demo": "--data.image_size 64",
    "patchcore": NETWORK + "--model.coreset_ratio 0.1",
    "padim": NETWORK + "--model.dimension 50",
    "spade": NETWORK + "--model.k_pixel 5",
    "mahalanobis": NETWORK + "--model.map true",
    "cfa": NETWORK + "--model.features post_relu --trainer.max_epochs 2",
    "draem": "--model.reconstructive_width 8 --model.discriminative_width 8 --trainer.max_epochs 2",
    "pfm": "--model.source {backbone} --model.source_weights {weights} --model.target mobilenet_v2 "
    "--model.target_weights null --model.latents [16,16,16] --trainer.max_epochs 2",
}
VERIFIED = ("demo", "patchcore", "draem")  # drawn images, a fit-only method and a learned one
# Held-out images are for p-values and verdicts.
HELD_OUT = "--data.validation holdout --data.validation_share 0.25 --reject 0.1"
SMALL = "--data.image_size 64 --data.center_crop null --data.batch_size 4"
QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --data.num_workers 0"
DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
TRAINING_IMAGES = 40
GOOD_TEST_IMAGES = 10
IMAGES_OF_A_DEFECT = 3
LONGEST_RUN = 900  # seconds
DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Case:
    """A method, and by how many processes it runs."""

    method: str
    processes: int

    @property
    def name(self) -> str:
        """Names the run."""
        return f"{self.method}-{self.processes}"


@dataclass(frozen=True)
class Inputs:
    """The images of the methods, and the network that looks at them.

    Attributes:
        layout: of the images, as in configs/data.
        images: the flags that say where they are.
        backbone: the name of the network.
        weights: the path of its weights; `null` for random ones.
    """

    layout: str
    images: list[str]
    backbone: str
    weights: str


@dataclass
class Comparison:
    """What was compared of two runs, and the differences that were found."""

    tensors: int = 0
    numbers: int = 0
    rows: int = 0
    maps: int = 0
    differences: list[str] = field(default_factory=list)

    def count(self, path: str, value: Any) -> None:
        """Counts a value that is compared; each row of predictions.csv has one path."""
        if isinstance(value, Tensor):
            self.tensors += 1
        elif isinstance(value, int | float):
            self.numbers += 1
        elif path.startswith("predictions.csv/") and path.endswith("/path"):
            self.rows += 1
        elif path.startswith("maps/"):
            self.maps += 1

    def describe(self, name: str) -> str:
        """Puts the counts into a line, and each of the first differences into one more."""
        counts = [(self.tensors, "tensors"), (self.numbers, "numbers"), (self.rows, "rows")]
        counts.append((self.maps, "maps"))
        compared = ", ".join(f"{count} {what}" for count, what in counts if count)
        result = f"{len(self.differences)} DIFFERENCES" if self.differences else "equal"
        shown = [f"    {difference}" for difference in self.differences[:DIFFERENCES_SHOWN]]
        return "\n".join([f"{name:<30} {compared:<46} {result}", *shown])


class Checkout:
    """Runs the scripts of a checkout.

    They run in a folder for it alone, with paths relative to that: what runs record of their own
    place is then the same for every checkout.

    Args:
        path: of the checkout.
        folder: in which its scripts run.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path.resolve()
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.revision = self._revision()

    def _revision(self) -> str:
        git = ["git", "--no-optional-locks", "-C", str(self.path)]
        command = [*git, "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"

    def run_folder(self, case: Case) -> Path:
        """Names the folder of a run."""
        return self.folder / "runs" / case.name / "version_0"

    def execute(self, script: str, flags: Sequence[str], folder: Path) -> str:
        """Runs a script in a folder; returns what went wrong, or nothing."""
        command = [sys.executable, str(self.path / script), *flags]
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": LONGEST_RUN}
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, cwd=folder, env=one_thread, **options)
        except subprocess.TimeoutExpired:
            return f"{script} of {self.path} did not end within {LONGEST_RUN} s"
        if done.returncode == 0:
            return ""
        output = (done.stdout + done.stderr).strip()
        return f"{script} of {self.path} ended with {done.returncode}: {output[-1000:]}"

    def train(self, case: Case, inputs: Inputs, keep: bool) -> str:
        """Makes a run, or keeps the one that the same command and revision made.

        Returns:
            What went wrong, or nothing.
        """
        flags = flags_of(case, self.path, inputs)
        made_by = json.dumps([str(self.path), self.revision, *flags])
        marker = self.folder / "runs" / case.name / "made_by.json"
        if keep and marker.is_file() and marker.read_text() == made_by:
            return ""
        shutil.rmtree(marker.parent, ignore_errors=True)
        error = self.execute("train.py", flags, self.folder)
        if not error:
            marker.write_text(made_by)
        return error

    def evaluate(self, case: Case, other: "Checkout") -> tuple[str, Path]:
        """Evaluates a run of another checkout.

        Returns:
            What went wrong, or nothing; and the folder of the results.
        """
        output = self.folder / "evaluations" / case.name
        shutil.rmtree(output, ignore_errors=True)
        flags = ["--output", str(output), "--trainer.devices", str(case.processes), *QUIET.split()]
        error = self.execute("evaluate.py", [f"runs/{case.name}", *flags], other.folder)
        return error, next(output.glob("*/version_0"), output)

    def verify(self, case: Case, other: "Checkout") -> str:
        """Verifies a run of another checkout; returns what went wrong, or nothing."""
        flags = ["--verify", f"runs/{case.name}", *QUIET.split()]
        return self.execute("evaluate.py", flags, other.folder)


def flags_of(case: Case, checkout: Path, inputs: Inputs) -> list[str]:
    """Gives the flags of a run; the demo takes neither images nor a network."""
    words = {"backbone": inputs.backbone, "weights": inputs.weights}
    method = [flag.format(**words) for flag in METHODS[case.method].split()]
    run = [*method, "--name", case.name, "--trainer.devices", str(case.processes), *QUIET.split()]
    if case.method == "demo":
        return run
    names = [f"configs/{case.method}.yaml", f"configs/data/{inputs.layout}.yaml"]
    configs = [f"--config={checkout / name}" for name in names]
    return [*configs, *inputs.images, *SMALL.split(), *HELD_OUT.split(), *run]


def prepare_inputs(args: argparse.Namespace) -> Inputs:
    """Makes ready what the methods work on: a few magnetic tiles, or the images of the demo."""
    weights = str(args.weights.resolve()) if args.weights else "null"
    if args.data is None:
        return Inputs("demo", [], args.backbone, weights)
    root = args.work / "images"
    copy_some(args.data, args.train_list, root)
    images = [f"--data.root={root}", f"--data.layout_options.train_list={root / 'train.txt'}"]
    return Inputs("mtd", images, args.backbone, weights)


def copy_some(source: Path, train_list: Path, target: Path) -> None:
    """Copies a few magnetic tiles, the same ones each time, and writes their training list."""
    shutil.rmtree(target, ignore_errors=True)
    names = set(train_list.read_text().split())
    good = sorted((source / "MT_Free/Imgs").glob("*.jpg"))
    training = spread([file for file in good if file.name in names], TRAINING_IMAGES)
    chosen = training + spread([file for file in good if file.name not in names], GOOD_TEST_IMAGES)
    for defect in DEFECTS:
        chosen += spread(sorted((source / f"MT_{defect}/Imgs").glob("*.jpg")), IMAGES_OF_A_DEFECT)
    for image in chosen:
        copy = target / image.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, copy)
        shutil.copyfile(image.with_suffix(".png"), copy.with_suffix(".png"))
    (target / "train.txt").write_text("\n".join(image.name for image in training))


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Picks `count` files at even distances."""
    return [files[i * len(files) // count] for i in range(count)]


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Walks through dictionaries and lists; yields each value in them with its path."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    else:
        yield path, value
        return
    if not children:
        yield path, "empty"
    for name, child in children:
        yield from leaves(child, f"{path}/{name}")


def results_of(run: Path, work: Path) -> dict[str, Any]:
    """Reads metrics and predictions of a run, and the checksums of its maps, as values by path."""
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = dict(leaves(rows, "predictions.csv"))
    found.update(leaves(json.loads((run / "metrics.json").read_text()), "metrics.json"))
    for image in sorted((run / "maps").rglob("*.png")):
        found[image.relative_to(run).as_posix()] = hashlib.sha256(image.read_bytes()).hexdigest()
    return without_place(found, work)


def checkpoint_of(run: Path, work: Path) -> dict[str, Any]:
    """Reads the checkpoint of a run, as values by path."""
    checkpoint = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=False)
    return without_place(dict(leaves(checkpoint, "last.ckpt")), work)


def without_place(found: dict[str, Any], work: Path) -> dict[str, Any]:
    """Leaves out of paths and texts in which of the two folders the run was made."""
    cleaned = {}
    for path, value in found.items():
        text = isinstance(value, str)
        cleaned[replace_place(path, work)] = replace_place(value, work) if text else value
    return cleaned


def replace_place(text: str, work: Path) -> str:
    """Writes one word for the folders of both checkouts."""
    return text.replace(str(work / "before"), "FOLDER").replace(str(work / "after"), "FOLDER")


def compare(before: dict[str, Any], after: dict[str, Any], skipped: Sequence[str]) -> Comparison:
    """Compares the contents of two runs, but for the paths that match a pattern in `skipped`."""
    result = Comparison()
    for path in sorted({**before, **after}):
        if any(fnmatchcase(path, pattern) for pattern in skipped):
            continue
        if path not in after:
            result.differences.append(f"{path}: only before")
        elif path not in before:
            result.differences.append(f"{path}: only after")
        else:
            result.count(path, before[path])
            difference = difference_of(before[path], after[path])
            if difference:
                result.differences.append(f"{path}: {difference}")
    return result


def difference_of(before: Any, after: Any) -> str:
    """Tells two values apart; returns nothing if they are the same to the bit."""
    if type(before) is not type(after):
        return f"{before!r:.80} and {after!r:.80}"
    if isinstance(before, Tensor):
        return tensor_difference(before, after)
    if isinstance(before, str):
        return text_difference(before, after)
    return "" if repr(before) == repr(after) else f"{before!r} and {after!r}"


def tensor_difference(before: Tensor, after: Tensor) -> str:
    """Tells two tensors apart by type, shape and bits; NaN is equal to itself."""
    kinds = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (before, after)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} and {kinds[1]}"
    bits = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (before, after)]
    if torch.equal(bits[0], bits[1]):
        return ""
    distance = (before.double() - after.double()).abs()
    count = int((distance != 0).sum())
    return f"{count} of {distance.numel()} values differ, by {float(distance.max()):.3g} at most"


def text_difference(before: str, after: str) -> str:
    """Tells two texts apart by their first lines that differ."""
    if before == after:
        return ""
    lines = zip([*before.split("\n"), "(the end)"], [*after.split("\n"), "(the end)"], strict=False)
    first = next(pair for pair in lines if pair[0] != pair[1])
    return f"{first[0]!r:.120} and {first[1]!r:.120}"


def compare_training(case: Case, before: Checkout, after: Checkout, work: Path) -> Comparison:
    """Compares the runs that both have made."""
    folders = [checkout.run_folder(case) for checkout in (before, after)]
    runs = [checkpoint_of(folder, work) | results_of(folder, work) for folder in folders]
    return compare(runs[0], runs[1], MAY_DIFFER)


def compare_evaluation(case: Case, before: Checkout, after: Checkout, work: Path) -> Comparison:
    """Evaluates a run of `before` by `after`, and compares the results with the run's own."""
    error, folder = after.evaluate(case, before)
    if error:
        return Comparison(differences=[error])
    runs = [results_of(run, work) for run in (before.run_folder(case), folder)]
    return compare(runs[0], runs[1], MAY_DIFFER + MAY_DIFFER_IN_EVALUATION)


def check(case: Case, before: Checkout, after: Checkout, args: argparse.Namespace) -> bool:
    """Makes all comparisons of a case, and prints them; returns whether everything is equal."""
    comparisons = {case.name: compare_training(case, before, after, args.work)}
    if case.processes == min(args.processes):
        evaluation = compare_evaluation(case, before, after, args.work)
        comparisons[f"{case.name} evaluate"] = evaluation
    if case.method in VERIFIED and case.processes == max(args.processes):
        error = after.verify(case, before)
        verification = Comparison(differences=[error] if error else [])
        comparisons[f"{case.name} evaluate --verify"] = verification
    for name, comparison in comparisons.items():
        print(comparison.describe(name), flush=True)
    return not any(comparison.differences for comparison in comparisons.values())


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("before", type=Path, metavar="BEFORE", help="a checkout")
    add("after", type=Path, metavar="AFTER", nargs="?", help="another one")
    add("--data", type=Path, help="the folder of the magnetic tiles (data/README.md)")
    add("--train-list", type=Path, help="the names of their training images, one a line")
    add("--backbone", default="squeezenet1_1", help="the network of all methods that take one")
    add("--weights", type=Path, help="the file of its weights; random ones if it is left out")
    add("--work", type=Path, default=Path("runs/same_results"), help="the folder of all runs")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    add("--processes", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()
    if args.data and not args.train_list:
        parser.error("--data needs --train-list")
    args.work = args.work.resolve()
    return args


def main() -> int:
    args = parse_arguments()
    before = Checkout(args.before, args.work / "before")
    after = Checkout(args.after, args.work / "after") if args.after else None
    inputs = prepare_inputs(args)
    equal = True
    for method, processes in product(args.methods, args.processes):
        case = Case(method, processes)
        error = before.train(case, inputs, keep=True)
        if after and not error:
            error = after.train(case, inputs, keep=False)
        if error:
            equal = False
            print(f"{case.name}: {error}", flush=True)
        elif after:
            equal &= check(case, before, after, args)
        else:
            print(f"{case.name:<30} {before.run_folder(case)}", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
