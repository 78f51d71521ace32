"""The two methods of docs/extending.md, added to a copy of the project as the page prints them."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, metrics_of

from lightning_ad.evaluation import METRIC_NAMES

COPIED = ["lightning_ad", "configs", "tests", "train.py", "evaluate.py", "pyproject.toml"]
SMALL = ["--data.image_size", "64", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
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
    return root


def run(words, project):
    assert words[0] == "python"
    command = [sys.executable, *words[1:]]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=TIMEOUT)


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


def test_they_train_and_are_evaluated(project):
    *trained, evaluated, _ = printed_commands()
    for words in trained:
        done = run([*words, *SMALL], project)
        assert done.returncode == 0, done.stderr[-3000:]
    done = run([*evaluated, "--trainer.accelerator", "cpu"], project)
    assert done.returncode == 0, done.stderr[-3000:]
    first = project / "runs/meanimage-mvtec-bottle/version_0"
    metrics = metrics_of(first)
    assert list(metrics) == list(METRIC_NAMES)
    assert metrics_of(first / "evaluations/version_0") == metrics
    assert Path(project / "runs/autoencoder-mvtec-bottle/version_0/report.html").is_file()


def test_the_tests_that_find_them_pass(project):
    """The contract, their configurations, resuming, processes: all that holds for any method."""
    done = run([*printed_commands()[-1], "-v"], project)
    assert done.returncode == 0, done.stdout[-5000:]
    for name in ("TestMeanImage", "TestAutoencoder", "test_resume", "test_method_configs"):
        assert re.search(rf"{name}.* PASSED", done.stdout), name
