"""All that docs/extending.md prints, added to a copy of the project as the page says."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from runs import FAULTS, ROOT, assert_same_weights, metrics_of
from scripts import ScriptServer

from lightning_ad.data import demo
from lightning_ad.data.layouts.demo import prepare
from lightning_ad.evaluation import METRIC_NAMES

COPIED = [
    *("lightning_ad", "configs", "tests", "docs", "benchmarks"),
    *("train.py", "evaluate.py", "pyproject.toml", "README.md", "Makefile"),
]
METHODS = "lightning_ad/methods/__init__.py"
CATALOGUE = "lightning_ad/evaluation/catalogue.py"
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SMALL = ["--data.image_size", "64", "--data.batch_size", "3", *CPU]
KILLS = {  # what kills a run of a class in the middle
    "meanimage": ["--trainer.callbacks.batch", "0"],
    "autoencoder": ["--trainer.max_epochs", "2", "--trainer.callbacks.step", "3"],
}
TIMEOUT = 1200  # seconds for a command that takes a minute on a quiet machine
PAGE = (ROOT / "docs/extending.md").read_text()


def printed_files():
    """The files that the page prints, by their paths."""
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


def printed_commands(program):
    """The words behind `python`, of the commands of a program."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    commands = [shlex.split(line)[1:] for line in lines]
    return [words for words in commands if words[0] == program]


def printed_line(start):
    """The line of the page that begins so, however often it is printed."""
    (line,) = set(re.findall(rf"^{re.escape(start)}.*$", PAGE, re.MULTILINE))
    return line


def insert(file, line, before):
    """Inserts a line before the first one that is `before`, unless it is there."""
    lines = file.read_text().splitlines()
    if line in lines:
        return
    place = next(number for number, other in enumerate(lines) if before(other))
    lines.insert(place, line)
    file.write_text("\n".join(lines) + "\n")


def add_all(root):
    """Writes and registers what the page prints, each file with the line that names it."""
    for path, text in printed_files().items():
        if path != METHODS:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"# {path}\n{text}")
    for line in printed_files()[METHODS].splitlines():
        insert(root / METHODS, line, lambda other, line=line: other > line)
    row = printed_line("| Weld seams")
    insert(root / "data/README.md", row, lambda other: other.startswith("| your own"))
    insert(root / CATALOGUE, printed_line('    "pixel_AUPRO_1.00"'), lambda other: other == "}")
    add_evaluator(root / CATALOGUE)


def add_evaluator(catalogue):
    line = printed_line("from lightning_ad.evaluation.highest_good_value")
    text = catalogue.read_text()
    if line not in text:
        text = text.replace(")\n\nMetric = ", f")\n{line}\n\nMetric = ")
    text = re.sub(r"^EVALUATORS.*$", printed_line("EVALUATORS"), text, flags=re.MULTILINE)
    catalogue.write_text(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory, trees):
    """A copy of the project with all of the page, and small data where its commands want them."""
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, root / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, root / name)
    shutil.copytree(trees["mvtec"], root / "data/mvtec")
    shutil.copy(ROOT / "data/README.md", root / "data")
    add_all(root)
    runpy.run_path(str(root / "tests/data/layouts/test_welds.py"))["draw_tree"](root / "data/welds")
    few = partial(demo.draw_demo, train=8, good=2, per_defect=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "draw_demo", few)
        prepare(root / "data/demo")
    return root


@pytest.fixture(scope="module")
def server(project):
    server = ScriptServer(project)
    yield server
    server.close()


@pytest.fixture
def run(project, server, monkeypatch):
    """Runs a script of the copy in its folder; it must end with the expected code."""

    def run_script(words, code=0):
        monkeypatch.chdir(project)
        script, *flags = words
        ended, found, _, error = server.run([str(project / script), *flags], TIMEOUT)
        assert ended
        assert found == code, error[-3000:]

    return run_script


def test_what_is_printed_is_all_that_is_added():
    assert sorted(printed_files()) == [
        "configs/autoencoder.yaml",
        "configs/data/welds.yaml",
        "configs/mean_image.yaml",
        "lightning_ad/data/layouts/welds.py",
        "lightning_ad/evaluation/highest_good_value.py",
        METHODS,
        "lightning_ad/methods/autoencoder.py",
        "lightning_ad/methods/mean_image.py",
        "tests/data/layouts/test_welds.py",
        "tests/evaluation/test_highest_good_value.py",
        "tests/methods/test_autoencoder.py",
        "tests/methods/test_mean_image.py",
    ]
    assert len(printed_files()[METHODS].splitlines()) == 2


def test_what_the_page_names_is_in_the_file_that_it_links_to():
    items = re.findall(r"^\* `(.*?)\(\.\./(\S+\.py)\)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(items) == 5
    for item, path in items:
        source = (ROOT / path).read_text()
        signatures = re.findall(r"`?(\w+\(self.*?\) -> [^`]+)`", item)
        assert signatures or item.startswith("can_extend = True")
        for signature in [*signatures, *re.findall("can_extend = True", item)]:
            assert signature in source, f"{signature} is not in {path}"


def test_they_pass_make_lint_whatever_folders_the_checkout_has(project):
    for name in ("runs", "trees"):
        (project / name).mkdir(exist_ok=True)
        (project / name / "kept.txt").touch()
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "."]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0, done.stdout[-3000:]


def test_they_train_go_on_after_a_kill_and_are_evaluated(project, run):
    on_demo, *on_mvtec, on_welds = printed_commands("train.py")
    demo_evaluated, evaluated = printed_commands("evaluate.py")
    run([*on_demo, *SMALL])
    run([*demo_evaluated, *CPU])
    for words, (method, kill) in zip(on_mvtec, KILLS.items(), strict=True):
        words = [*words, *SMALL]
        if "--trainer.max_epochs" in kill:
            words += kill[:2]
        run(words)
        run([*words, *FAULTS, "--trainer.callbacks+", "faults.KillAt", *kill[-2:]], code=-9)
        run([*words, "--resume"])
        runs = project / f"runs/{method}-mvtec-bottle"
        assert_same_weights(runs / "version_0", runs / "version_1")
        assert metrics_of(runs / "version_0") == metrics_of(runs / "version_1")
    run([*evaluated, *CPU])
    tested = project / "runs/meanimage-mvtec-bottle/version_1"
    metrics = metrics_of(tested)
    assert metrics.keys() > {*METRIC_NAMES}
    assert metrics.keys() >= {"pixel_AUPRO_1.00", "image_highest_good_value"}
    assert metrics_of(tested / "evaluations/version_0") == metrics

    run([*on_welds, *SMALL])
    rows = (project / "runs/meanimage-welds-lap/version_0/predictions.csv").read_text()
    assert rows.count("/sound/") == 2  # of 5


def test_the_tests_that_find_them_pass(project, server, monkeypatch):
    """The contract, their configurations, tiles, workers: all that holds for any method."""
    paths = set()
    wanted = []
    for words in printed_commands("-m"):
        *_, expression = words
        paths |= {word for word in words if word.startswith("tests/")}
        wanted.append(expression)
    monkeypatch.chdir(project)
    for name in list(os.environ):
        if name.startswith("PYTEST_"):
            monkeypatch.delenv(name)
    program = Path(pytest.__file__).with_name("__main__.py")
    argv = [str(program), "-vv", *sorted(paths), "-k", " or ".join(wanted)]
    ended, code, printed, _ = server.run(argv, TIMEOUT)
    assert ended
    assert code == 0, printed[-5000:]
    for name in (
        "TestMeanImage",
        "TestAutoencoder",
        "test_method_configs",
        "by_tiles",
        r"test_data_configs\[welds\]",
        r"found_out\[welds\]",
        "test_highest_good_value",
    ):
        assert re.search(rf"{name}.* PASSED", printed), name
