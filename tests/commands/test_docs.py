"""Every command of README and docs is run, as it stands there, on small data that lie where it says."""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import METHODS, QUIET, ROOT, method_of, script
from small import small_flags
from trees import draw_image, folder_tree, mvtec_tree

from lightning_ad.commands.main import main

PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS = (
    "python",
    "lightning-ad",
    "make",
    "torchrun",
    "wandb",
    "sbatch",
    "srun",
    "mlflow",
    "tensorboard",
)
ELSEWHERE = {  # commands that other tests run, or that are what runs these
    "make demo": "commands/test_demo.py", "make test": "commands/test_demo.py", "wandb sweep": "reporting/test_dashboards.py",
    "wandb agent": "reporting/test_dashboards.py", "srun": "commands/test_preemption.py",
}  # fmt: skip
NUMBERS = itertools.count()
TINY = ["--data.image_size", "64", "--data.center_crop", "null", "--data.num_workers", "0", *QUIET]


def commands():
    """(page, command) of every line of a block that begins with one of the words; a backslash goes on."""
    found = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for line in re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE):
            if line.split()[0] in WORDS:
                found.setdefault(line.partition("  #")[0].strip(), page.stem)
    # what is evaluated must have been trained
    return sorted(found.items(), key=lambda item: ("evaluate" in item[0], "padim" in item[0]))


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


@pytest.mark.xdist_group("docs")  # a run that one of them makes is evaluated by another
@pytest.mark.parametrize(("command", "page"), commands())
def test_command(command, page, home, monkeypatch, tmp_path, forked_training):
    monkeypatch.chdir(home)
    if test := next((test for words, test in ELSEWHERE.items() if command.startswith(words)), None):
        assert command.split()[-1] in (ROOT / "tests" / test).read_text() or command.startswith(
            ("make", "wandb", "srun")
        )
        return
    words = shlex.split(command)
    if words[0] == "torchrun":
        if "--node_rank 0" in command:
            two_agents(words)
        return
    if "runs/padim-mvtec-bottle" in words and not Path("runs/padim-mvtec-bottle").exists():
        assert ours(shlex.split("python train.py --config configs/padim.yaml --config configs/data/mvtec.yaml "
                                "--data.category bottle")) == 0  # fmt: skip
    if "runs/draem-bottle" in words and not Path("runs/draem-bottle").exists():
        assert ours(shlex.split("python train.py --config configs/draem.yaml --config configs/data/mvtec.yaml "
                                "--data.category bottle --name draem-bottle")) == 0  # fmt: skip
    assert ours(words) == 0


def two_agents(words):
    small_words = [*words, *small(words)]
    rank = small_words.index("--node_rank") + 1
    launcher = [sys.executable, "-m", "torch.distributed.run", *small_words[1:rank]]
    rest = small_words[rank + 1 :]
    agents = [
        subprocess.Popen(
            [*launcher, str(n), *rest], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for n in range(2)
    ]
    said = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said


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
    assert len(flags) > 35
    unknown = [
        flag
        for flag in flags
        if flag.rstrip("+") not in known and not flag.startswith(("--model.", "--config"))
    ]
    assert not unknown
