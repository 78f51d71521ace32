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
SETTERS = {"setattr", "delattr"}
# Attributes of other objects that may be set, by file, and why.
ALLOWED = {
    "callbacks/config_in_checkpoint.py": {
        "trainer.should_stop": "Lightning's own way to end a training"
    },
    "callbacks/preemption.py": {"lightning.received_sigterm": "Lightning's own note of a signal"},
    "cli/messages.py": {
        "warnings.formatwarning": "Python's own hook",
        "threading.excepthook": "Python's own hook",
        "record.msg": "a filter of a log changes its record",
        "record.args": "a filter of a log changes its record",
    },
    "cli/parser.py": {
        "action._typehint": "jsonargparse asks for the type of a flag nowhere else",
        "config": "a configuration that is being parsed",
    },
    "cli/run.py": {
        "torch._dynamo.config.recompile_limit": "a setting of torch",
        "self.config.data.bits": "the run's own configuration, with what was found",
    },
    "commands/arguments.py": {
        "parser.takes_run_flags": "the parser of a command, which its own function fills",
        "parser.run_comes_first": "the parser of a command, which its own function fills",
        "parser.usage": "the parser of a command, which its own function fills",
        "parser.epilog": "the parser of a command, which its own function fills",
        "arguments.words": "a namespace that the function has made",
        "arguments.flags": "a namespace that the function has made",
    },
    "data/demo/defects.py": {
        "layers.alpha": "a canvas that a defect is drawn on",
        "layers.colour": "a canvas that a defect is drawn on",
        "layers.depth": "a canvas that a defect is drawn on",
        "layers.gloss": "a canvas that a defect is drawn on",
        "layers.height": "a canvas that a defect is drawn on",
        "layers.ink": "a canvas that a defect is drawn on",
    },
    "data/deep_colour.py": {"image.tile": "an image that the function has opened"},
    "data/reading.py": {"Image.MAX_IMAGE_PIXELS": "a setting of Pillow"},
    "features/backbone.py": {"parent": "a network that the function has copied"},
    "features/fusion.py": {
        "module.inplace": "a network that the function has copied",
        "module.training": "a network that the function has copied",
    },
    "methods/cfa/networks.py": {
        "output.args": "a node of a graph that is rewritten: torch.fx has no other way",
        "relu.inplace": "a network that is rewritten",
    },
    "methods/draem/architectures.py": {"parameter.grad": "torch lets gradients go no other way"},
    "statistics/hierarchical_gaussian.py": {"moments.count": "empty moments that are filled"},
    "system/launch.py": {"rank_zero_only.rank": "Lightning keeps the number of a process there"},
    "system/row_store.py": {"old.blocks": "a store that the function has made"},
    "system/streams.py": {"sys": "Python's own streams"},
}


def written(tree):
    """The attributes of objects other than `self` that are set, as (line, text)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in SETTERS:
            node = owner = node.args[0]
        else:
            continue
        if not (isinstance(owner, ast.Name) and owner.id in {"self", "cls"}):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "statement",
    [
        "model.x = 1",
        "self.model.x = 1",
        "loader.sampler.start = 0",
        "a, (model.x, b) = c",
        "model.x += 1",
        "model.x: int = 1",
        "setattr(model, name, 1)",
        "setattr(self.model, name, 1)",
        "del model.x",
        "for model.x in c: pass",
        "with c as model.x: pass",
    ],
)
def test_every_way_to_set_an_attribute_is_found(statement):
    assert len([*written(ast.parse(statement))]) == 1


@pytest.mark.parametrize(
    "statement", ["self.x = 1", "cls.x += 1", "setattr(self, name, 1)", "a[model.x] = model.y"]
)
def test_what_an_object_sets_of_its_own_is_not_found(statement):
    assert not [*written(ast.parse(statement))]


def test_no_object_is_written_into_from_outside():
    found = []
    used = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for line, text in written(ast.parse(path.read_text(encoding="utf-8"))):
            if text in ALLOWED.get(file, {}):
                used.add((file, text))
            else:
                found.append(f"{file}:{line} sets {text}")
    assert not found
    assert used == {(file, text) for file, texts in ALLOWED.items() for text in texts}


def test_settings_are_given_whole_and_stay():
    settings = RunSettings(metrics_gb=2.0)
    module = make_small("PaDiM")
    module.configure_run(settings)
    assert module.run_settings is settings
    with pytest.raises(FrozenInstanceError):
        settings.trim = 0.5


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_trim_that_is_no_share_is_refused(share):
    with pytest.raises(UsageError, match="from 0 to below 1"):
        RunSettings(trim=share)


@pytest.mark.parametrize(
    ("wish", "extend", "flag"),
    [
        ({"trim": 0.1}, None, "--trim"),
        ({"list_suspects": True}, None, "--suspects"),
        ({}, {}, "--extend"),
    ],
)
def test_a_learned_method_refuses_what_only_a_fit_can_do(wish, extend, flag):
    with pytest.raises(UsageError, match=f"{flag}: DRAEM is trained, not fitted at once"):
        make_small("DRAEM").configure_run(RunSettings(**wish), extend)
