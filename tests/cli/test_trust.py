"""Only the value of --trust allows a package; importing another would run its code."""

import sys

import pytest
from jsonargparse import _common
from lightning.pytorch.callbacks import Callback

from lightning_ad.cli.parser import Parser
from lightning_ad.cli.trust import allow_imports
from lightning_ad.errors import UsageError

CODE = ["--callback", "stranger.Code"]


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that leaves a trace if it is imported."""
    (tmp_path / "stranger.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from lightning.pytorch import Callback\nclass Code(Callback): pass\n"
        "class Other(Callback): pass\n"
    )
    (tmp_path / "stranger.yaml").write_text("callback: stranger.Code\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_common.parsing_settings, "import_path_verdicts", {})
    yield tmp_path / "ran"
    sys.modules.pop("stranger", None)


@pytest.fixture
def parser():
    parser = Parser(exit_on_error=True)
    parser.add_argument("-c", "--config", action="config")
    parser.add_argument("--name", type=str)
    parser.add_argument("--trust", type=str)
    parser.add_argument("--callback", type=Callback | None)
    parser.add_argument("--trainer.callbacks", type=Callback | None)
    return parser


REFUSED = {
    "a file of its name": ["--config", "stranger.yaml"],
    "a file of its name after =": ["--config=stranger.yaml"],
    "a file of its name in one word": ["-cstranger.yaml"],
    "a name": ["--name", "stranger.v2", *CODE],
    "a name that looks like a flag": ["--name=--trust", *CODE],
    "a class after a flag that is not known to take one": CODE,
    "another package": ["--trust", "other", *CODE],
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_other_value_makes_a_package_trusted(parser, stranger, case):
    with pytest.raises(UsageError, match=r"names stranger\.Code.*add --trust stranger"):
        parser.parse_args(REFUSED[case])
    assert not stranger.exists()


def test_a_typed_class_is_allowed_itself_and_not_its_package(parser, stranger):
    parser.parse_args(["--trainer.callbacks", "stranger.Code"])
    assert stranger.exists()
    with pytest.raises(UsageError, match="add --trust stranger"):
        parser.parse_args(["--trainer.callbacks", "stranger.Code", "--callback", "stranger.Other"])
    with pytest.raises(UsageError, match="add --trust stranger"):
        parser.parse_args(CODE)


def test_a_known_class_that_was_typed_stays_allowed(parser):
    known = "lightning.pytorch.callbacks.ModelSummary"
    parser.parse_args(["--trainer.callbacks", known])
    assert parser.parse_args(["--callback", known]).callback.class_path == known


@pytest.mark.parametrize("trust", [["--trust", "other, stranger"], ["--trust=stranger"]])
def test_trust_holds_for_one_command_line(parser, stranger, trust):
    parser.parse_args([*trust, "--config", "stranger.yaml"])
    assert stranger.exists()
    with pytest.raises(UsageError, match="add --trust stranger"):
        parser.parse_args(CODE)
    parser.parse_args([*CODE, *trust])


def test_what_is_no_package_is_refused():
    with pytest.raises(UsageError, match=r"expected packages between commas, .*got '/x'"):
        allow_imports(["--trust", "a,/x"])
