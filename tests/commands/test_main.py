"""The table of commands: what is typed finds its command, and help is there at once."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from runs import ROOT, typed
from scripts import PATIENCE

from lightning_ad.commands.main import COMMANDS, main, parse
from lightning_ad.errors import UsageError

LIGHT = [name for name, command in COMMANDS.items() if command.add_arguments]  # not of LightningCLI


@pytest.mark.parametrize("words", [[], *([name] for name in LIGHT)], ids="-".join)
def test_help_comes_without_torch(words):
    """Each import of torch would take seconds."""
    code = (
        "import sys\n"
        "from lightning_ad.__main__ import start\n"
        "try:\n"
        f"    ended = start({[*words, '--help']!r})\n"
        "except SystemExit as error:\n"
        "    ended = error.code\n"
        "heavy = {'torch', 'lightning', 'numpy', 'yaml'} & {*sys.modules}\n"
        "sys.exit(f'exit code {ended}, imported {heavy}' if ended or heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    usage = done.stdout.splitlines()[0]
    assert usage.startswith(" ".join(["usage: lightning-ad", *words]))


def test_libraries_that_few_runs_need_are_imported_at_their_use():
    """`train --help` is as fast as `import torch, lightning` then; timm imports wandb."""
    code = (
        "import sys\n"
        "import lightning_ad.commands.train, lightning_ad.commands.preview\n"
        "from lightning_ad.methods import DRAEM, PaDiM\n"
        "PaDiM('squeezenet1_1', weights=None)\n"
        "DRAEM(reconstructive_width=8, discriminative_width=8)\n"
        "slow = {'timm', 'kornia', 'segmentation_models_pytorch', 'wandb', 'mlflow', 'sklearn'}\n"
        "sys.exit(f'imported {slow & {*sys.modules}}' if slow & {*sys.modules} else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_the_overview_has_a_line_for_each_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name:<10} {command.help}\n" in printed
    assert main([]) == 2
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name):
    assert callable(import_module(COMMANDS[name].module).run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian', did you mean 'train'; lightning-ad --help lists"),
        (["compare", "a"], "lightning-ad compare: the following arguments are required: RUN_B"),
        (["compare", "a", "b", "--data.root", "x"], "unrecognized arguments: --data.root x"),
        (
            ["evaluate", "--verify"],
            "lightning-ad verify: the following arguments are required: RUN",
        ),
        (
            ["evaluate", "--data.root", "/data", "runs/a"],
            "name the run first: expected lightning-ad evaluate RUN ..., got --data.root",
        ),
        (
            ["verify", "--trainer.devices=2", "runs/a"],
            "name the run first: expected lightning-ad verify RUN ..., got --trainer.devices=2",
        ),
        (["benchmark", "--data", "mvtec"], "required: --methods"),
        (["datasets", "chek"], "invalid choice: 'chek'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_meant_is_a_usage_error(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "usage:" not in error


@pytest.mark.parametrize("words", [[], ["--data.root", "x", "--help"], ["-h"]], ids="-".join)
def test_evaluate_explains_itself_without_words(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *words])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: lightning-ad evaluate RUN")


def test_flags_of_runs_are_passed_on_as_they_were_typed():
    words = [
        "runs/a",
        "--data.root",
        "x y",
        "--trainer.devices=2",
        "--data.tile",
        "-1",
        "--compile",
    ]
    command, arguments = parse(["evaluate", *words])
    assert command is COMMANDS["evaluate"]
    assert arguments.run == Path("runs/a")
    assert arguments.flags == words[1:]
    _, arguments = parse(["train", "--help"])
    assert arguments.flags == ["--help"]
    words = [
        "--methods",
        "padim",
        "--padim.model.dimension",
        "9",
        "--data",
        "mvtec",
        "--data.tile",
        "8",
    ]
    _, arguments = parse(["benchmark", *words])
    assert (arguments.methods, arguments.data) == ("padim", "mvtec")
    assert arguments.flags == ["--padim.model.dimension", "9", "--data.tile", "8"]


def test_evaluate_knows_the_commands_that_were_its_flags(tmp_path):
    for flag, name, words in (("--compare", "compare", ["a", "b"]), ("--verify", "verify", ["a"])):
        assert parse(["evaluate", flag, *words]) == parse([name, *words])
    with pytest.raises(UsageError, match="there is no run in"):
        typed("evaluate", "--verify", tmp_path)


def test_a_rank_that_is_no_number_is_not_a_trace(monkeypatch):
    """Lightning reads it as it is imported; here only the variables are looked at."""
    monkeypatch.setenv("RANK", "abc")
    monkeypatch.setenv("LOCAL_RANK", "")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert main(["compare", "nowhere", "nowhere"]) == UsageError.exit_code
    assert "RANK" not in os.environ
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["SLURM_PROCID"] == "2"
