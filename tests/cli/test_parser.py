"""Errors of jsonargparse as one sentence; each of them comes out of a real parser."""

from collections.abc import Callable
from typing import Literal

import pytest
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveFloat
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ReduceLROnPlateau as Plateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_ad.cli.parser import Parser, explain_parser_error, write_out_homes
from lightning_ad.cli.run import method_names
from lightning_ad.errors import UsageError
from lightning_ad.methods import AnomalyModule

CASES = {
    "--share -1": "share: expected a number above 0, got -1",
    "--share lots": "share: expected a number, got 'lots'",
    "--count -1": "count: expected a number of at least 0, got -1",
    "--count 1.5": "count: expected a number, got '1.5'",
    "--size big": "size: expected an int or null, got 'big'",
    "--sizes a": "sizes: expected an int, list[int] or null, got 'a'",
    "--sizes [1,a]": "sizes: expected an int, got 'a'",
    "--kind c": "kind: expected 'a' or 'b', got 'c'",
    "--threshold c": "threshold: expected 'a', float or null, got 'c'",
    "--flag perhaps": "flag: expected a bool, got 'perhaps'",
    "--sise 3": "there is no flag '--sise', did you mean '--size'; --help lists all",
    "--sise=3": "there is no flag '--sise', did you mean '--size'; --help lists all",
    "--model Padim": (
        "model: there is no class 'Padim', did you mean 'PaDiM'; there is "
        + ", ".join(method_names())
    ),
    "--model Foo.Bar": "model: expected an AnomalyModule or null, got 'Foo.Bar'",
    "--model PaDiM --model.dimensoin 3": (
        "PaDiM has no setting 'dimensoin', did you mean 'dimension'; --model.help PaDiM lists all"
    ),
    "--model PaDiM --model.dimension x": (
        "model.dimension: expected an int, list[int] or null, got 'x'"
    ),
    "--schedule ReduceLROnPlateau": (
        "schedule: several classes are called 'ReduceLROnPlateau'; give one of torch.optim."
    ),
    "--callbacks Nothing": "callbacks: there is no class 'Nothing'",
    "--callbacks EarlyStopping": "callbacks: EarlyStopping needs monitor (--callbacks.monitor)",
    "--callbacks EarlyStopping --callbacks.monitor x --callbacks.patience y": (
        "callbacks.patience: expected an int, got 'y'"
    ),
}


@pytest.fixture(scope="module")
def parser():
    parser = Parser(exit_on_error=True, method_names=method_names())
    parser.add_argument("--share", type=PositiveFloat)
    parser.add_argument("--count", type=NonNegativeInt)
    parser.add_argument("--size", type=int | None)
    parser.add_argument("--sizes", type=int | list[int] | None)
    parser.add_argument("--kind", type=Literal["a", "b"])
    parser.add_argument("--threshold", type=Literal["a"] | float | None)
    parser.add_argument("--flag", type=bool)
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None)
    parser.add_argument("--schedule", type=Callable[[Optimizer], LRScheduler | Plateau] | None)
    parser.add_subclass_arguments(AnomalyModule, "model", required=False)
    return parser


@pytest.mark.parametrize("flags", CASES)
def test_an_error_is_one_sentence(parser, flags):
    with pytest.raises(UsageError) as raised:
        parser.parse_args(flags.split())
    assert str(raised.value).startswith(CASES[flags])
    assert "\n" not in str(raised.value)


def test_an_unknown_message_stays_as_it_is():
    assert explain_parser_error("something new") == "something new"


def test_homes_are_written_out_in_all_parts_of_a_configuration(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    logger = Namespace(class_path="x", init_args=Namespace(save_dir="~/logs"))
    config = Namespace(output="~/runs", trainer=Namespace(logger=[logger], max_epochs=1))
    config.data = Namespace(layout_options={"train_list": "~/x.txt"}, category="~tilde")
    write_out_homes(config)
    assert config.output == "/home/anna/runs"
    assert config.trainer.logger[0].init_args.save_dir == "/home/anna/logs"
    assert config.data.layout_options == {"train_list": "/home/anna/x.txt"}
    assert config.data.category == "~tilde"
