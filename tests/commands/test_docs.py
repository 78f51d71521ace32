"""Runs every command of README and docs as printed, on small data that lie where it names them."""

import itertools
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from agents import free_port, run_agents
from paths import ROOT
from runs import METHODS, QUIET, assert_same_weights, method_of, metrics_of, script
from small import small_flags
from trees import draw_image, folder_tree, mvtec_tree

from lightning_ad.commands.main import main

PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBERS = itertools.count()
TINY = ["--data.image_size", "64", "--data.center_crop", "null", "--data.num_workers", "0", *QUIET]


def commands_of(*programs):
    """Finds the lines of indented blocks that begin with one of the programs.

    A backslash continues a line. Fenced blocks of commands are for docs/extending.md alone, whose
    test is tests/methods/test_example_methods.py.

    Returns:
        The name of the first page of each command, by command.
    """
    found = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for line in re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE):
            if line.split()[0] in programs:
                found.setdefault(line.partition("  #")[0].strip(), page.stem)
    return found


def commands():
    """Returns (command, page) of all our commands; a run is trained before it is evaluated."""
    found = commands_of("python", "lightning-ad").items()
    return sorted(found, key=lambda item: (needs_a_run(item[0]), "padim" in item[0]))


def needs_a_run(command):
    return any(word in command for word in ("evaluate", "verify", "compare"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which the commands find what they name."""
    home = tmp_path_factory.mktemp("docs")
    for name in ("configs", "train.py", "evaluate.py", "lightning_ad"):
        (home / name).symlink_to(ROOT / name)
    mvtec_tree(home / "data/mvtec")
    mvtec_tree(home / "elsewhere")
    folder_tree(home / "my_parts")
    for number in range(3):
        draw_image(home / f"dtd/images/{number}.png", np.random.default_rng(number))
    return home


def small(words):
    """What is added to a command, so that it takes seconds and no network."""
    text = " ".join(words)
    if "--tile" in text or "data.tile" in text:
        size = ["--data.image_size", "[96,96]", "--data.tile", "64", "--data.tile_overlap", "32"]
        return [*TINY, *size, *small_flags("PatchCore")]
    for config in METHODS:
        if f"configs/{config.name}" in text:
            return [*TINY, *small_flags(method_of(config))]
    return TINY


def ours(words):
    """Runs a command of ours in this process; its exit code."""
    program, *args = words
    if "--trainer.devices" in words:  # whose other processes are started as this one was
        return script(args[0], [*args[1:], *small(args)]).returncode
    if program == "python":
        args[0] = args[0].removesuffix(".py")
    if args[0] in ("preview", "train"):
        args += small(args)
    if args[0] == "benchmark":
        return benchmark(args)
    return main(args)


def benchmark(args):
    for name in args[args.index("--methods") + 1].split(","):
        for flag in small_flags(method_of(ROOT / f"configs/{name}.yaml")):
            args.append(flag.replace("--", f"--{name}.", 1) if flag.startswith("--") else flag)
    words = [*(word for word in args if word not in (">", "job.sh")), "--seeds", "0"]
    words += ["--name", f"docs{next(NUMBERS)}"]  # each its own
    return main([*words, *TINY])


def train_if_missing(name, flags, words):
    """Trains a run that a command needs and that no page trains under this name."""
    if f"runs/{name}" in words and not Path("runs", name).exists():
        data = ["--config", "configs/data/mvtec.yaml", "--data.category", "bottle"]
        assert ours(["python", "train.py", *flags, *data]) == 0


@pytest.mark.xdist_group("docs")  # a run that one of them makes is evaluated by another
@pytest.mark.parametrize(("command", "page"), commands())
def test_command(command, page, home, monkeypatch, tmp_path, served_training):
    monkeypatch.chdir(home)
    words = shlex.split(command)
    train_if_missing("padim-mvtec-bottle", ["--config", "configs/padim.yaml"], words)
    draem = ["--config", "configs/draem.yaml", "--name", "draem-bottle"]
    train_if_missing("draem-bottle", draem, words)
    assert ours(words) == 0


@pytest.mark.distributed
@pytest.mark.xdist_group("docs")
def test_torchrun_on_two_machines_gives_the_result_of_one(home, monkeypatch, one_thread):
    monkeypatch.chdir(home)
    first, second = commands_of("torchrun")
    assert "--node_rank 0" in first
    assert second == first.replace("--node_rank 0", "--node_rank 1")
    port = str(free_port())
    agents = []
    for command in (first, second):
        words = shlex.split(command)
        words[words.index("--master_port") + 1] = port
        agents.append([*words[1:], *small(words), "--name", "two-machines"])
    codes, printed = run_agents(agents, {**os.environ, "OMP_NUM_THREADS": "1"})
    assert codes == [0, 0], printed
    *flags, name, number = words[words.index("train.py") + 1 :]
    assert (name, number) == ("--trainer.num_nodes", "2")
    assert ours(["python", "train.py", *flags, "--name", "one-machine"]) == 0
    one, two = Path("runs/one-machine/version_0"), Path("runs/two-machines/version_0")
    assert_same_weights(one, two)
    assert metrics_of(two) == pytest.approx(metrics_of(one), abs=1e-9)
    assert [path.name for path in two.parent.iterdir()] == ["version_0"]


def test_commands_stand_in_indented_blocks():
    """Only those of docs/extending.md are fenced: they are run by a test of their own."""
    assert commands()
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for language, block in blocks:
            shown = language not in ("python", "yaml", "rooms", "markdown")
            command = re.search("^(python|lightning-ad|torchrun) ", block, re.MULTILINE)
            assert not (shown and command) or page.stem == "extending", page


def test_targets_of_make_are_in_the_makefile():
    named = {command.split()[1] for command in commands_of("make")}
    declared = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert named <= set(declared)


def test_sweeps_are_there():
    sweeps = [command for command in commands_of("wandb") if command.startswith("wandb sweep")]
    assert sweeps
    for command in sweeps:
        assert (ROOT / command.split()[2]).is_file(), command


def test_flags_of_the_readme_are_flags():
    known = (
        script("train.py", ["--help"]).stdout
        + script("train.py", ["--model.help", "PatchCore"]).stdout
    )
    known += script("train.py", ["--model.help", "DRAEM"]).stdout
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    flags = {
        flag
        for line in table
        for flag in re.findall(r"`[^`]*`", line)
        for flag in re.findall(r"--[\w.]+", flag)
    }
    assert flags
    elsewhere = ("--model.", "--config", "--data.layout_options.")  # not of every run
    unknown = [
        flag for flag in flags if flag.rstrip("+") not in known and not flag.startswith(elsewhere)
    ]
    assert not unknown
