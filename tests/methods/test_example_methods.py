"""The two methods of docs/extending.md, added to a copy of the project as the page prints them."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, assert_same_weights, metrics_of

from lightning_ad.evaluation import METRIC_NAMES

COPIED = [
    *("lightning_ad", "configs", "tests", "docs", "benchmarks"),
    *("train.py", "evaluate.py", "pyproject.toml", "README.md", "Makefile"),
]
CPU = ["--trainer.accelerator", "cpu"]
SMALL = ["--data.image_size", "64", "--data.batch_size", "3", *CPU]
METHODS = {  # flags for a run that is short, and what kills it in the middle
    "meanimage": ([], ["--trainer.callbacks.batch", "0"]),
    "autoencoder": (["--trainer.max_epochs", "2"], ["--trainer.callbacks.step", "3"]),
}
TIMEOUT = 1200  # seconds for a command that takes a minute on a quiet machine


def section():
    page = (ROOT / "docs/extending.md").read_text()
    return page.partition("## A method\n")[2].partition("\n## ")[0]


def printed_files():
    """The files that the page prints, by their paths."""
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", section(), re.DOTALL))


def printed_commands():
    (block,) = re.findall(r"```sh\n(.*?)```", section(), re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory, trees):
    """A copy of the project with both methods, and a small data set where the commands want it."""
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, root / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, root / name)
    for path, text in printed_files().items():
        mode = "a" if (root / path).exists() else "w"
        with (root / path).open(mode) as file:
            file.write(text)
    shutil.copytree(trees["mvtec"], root / "data/mvtec")
    shutil.copy(ROOT / "data/README.md", root / "data")
    return root


def run(words, project):
    assert words[0] == "python"
    command = [sys.executable, *words[1:]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(project / "tests/helpers")
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )


def test_what_is_printed_is_all_that_is_added():
    assert sorted(printed_files()) == [
        "configs/autoencoder.yaml",
        "configs/mean_image.yaml",
        "lightning_ad/methods/__init__.py",
        "lightning_ad/methods/autoencoder.py",
        "lightning_ad/methods/mean_image.py",
        "tests/methods/test_autoencoder.py",
        "tests/methods/test_mean_image.py",
    ]
    registered = printed_files()["lightning_ad/methods/__init__.py"].strip().splitlines()
    assert all(line in section() for line in registered)
    assert len(registered) == 2


def test_they_train_go_on_after_a_kill_and_are_evaluated(project):
    *trained, evaluated, _ = printed_commands()
    for words, (method, (flags, kill)) in zip(trained, METHODS.items(), strict=True):
        words = [*words, *SMALL, *flags]
        done = run(words, project)
        assert done.returncode == 0, done.stderr[-3000:]
        killed = run([*words, "--trainer.callbacks+", "faults.KillAt", *kill], project)
        assert killed.returncode == -9, killed.stderr[-3000:]
        resumed = run([*words, "--resume"], project)
        assert resumed.returncode == 0, resumed.stderr[-3000:]
        runs = project / f"runs/{method}-mvtec-bottle"
        assert_same_weights(runs / "version_0", runs / "version_1")
        assert metrics_of(runs / "version_0") == metrics_of(runs / "version_1")
    done = run([*evaluated, *CPU], project)
    assert done.returncode == 0, done.stderr[-3000:]
    tested = project / "runs/meanimage-mvtec-bottle/version_1"
    assert list(metrics_of(tested)) == list(METRIC_NAMES)
    assert metrics_of(tested / "evaluations/version_0") == metrics_of(tested)


def test_the_tests_that_find_them_pass(project):
    """The contract, their configurations, tiles, workers: all that holds for any method."""
    done = run([*printed_commands()[-1], "-vv"], project)
    assert done.returncode == 0, done.stdout[-5000:]
    for name in ("TestMeanImage", "TestAutoencoder", "test_method_configs", "by_tiles"):
        assert re.search(rf"{name}.* PASSED", done.stdout), name
