"""State has one owner: what a run asks of a method is given to it once."""

import ast
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from small import make_small

import lightning_ad
from lightning_ad.errors import UsageError
from lightning_ad.methods.run_settings import RunSettings

PACKAGE = Path(lightning_ad.__file__).parent
BELOW = {"methods", "features", "statistics", "system"}  # which cannot know a method, and itself
METHOD = {"model", "module", "pl_module"}  # the names that a method has outside of its room


def names(expression):
    """The names of an expression such as self.model.x."""
    while isinstance(expression, ast.Attribute):
        yield expression.attr
        expression = expression.value
    if isinstance(expression, ast.Name):
        yield expression.id


def written(tree):
    """The attributes that are set, as (line, names)."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute):
                yield node.lineno, [*names(target)]


def test_nothing_outside_of_the_methods_sets_an_attribute_of_one():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in BELOW:
            continue
        for line, (attribute, *owner) in written(ast.parse(path.read_text())):
            if METHOD & {*owner}:
                found.append(f"{path.relative_to(PACKAGE)}:{line} sets {attribute}")
    assert not found


def test_settings_are_given_whole_and_stay():
    settings = RunSettings(metrics_gb=2.0)
    module = make_small("PaDiM")
    module.configure_run(settings)
    assert module.run_settings == settings
    assert module.metrics.memory_gb == 2.0
    with pytest.raises(FrozenInstanceError):
        settings.trim = 0.5


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_trim_that_is_no_share_is_refused(share):
    with pytest.raises(UsageError, match="from 0 to below 1"):
        RunSettings(trim=share)


def test_an_extended_fit_is_not_trimmed():
    with pytest.raises(UsageError, match="leave out --extend, or --trim"):
        RunSettings(extend={}, trim=0.1)


@pytest.mark.parametrize(
    ("wish", "flag"),
    [
        ({"trim": 0.1}, "--trim"),
        ({"list_suspects": True}, "--suspects"),
        ({"extend": {}}, "--extend"),
    ],
)
def test_a_learned_method_refuses_what_only_a_fit_can_do(wish, flag):
    with pytest.raises(UsageError, match=f"{flag}: DRAEM is trained, not fitted at once"):
        make_small("DRAEM").configure_run(RunSettings(**wish))
