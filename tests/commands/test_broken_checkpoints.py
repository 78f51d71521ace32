"""Checkpoints with parts missing, of another kind, or that would grow: one sentence each."""

import zipfile
from contextlib import suppress

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import flags

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.errors import UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.inspector import load
from lightning_ad.system.checkpoints import CONFIG_KEY, check_whole


@pytest.fixture(scope="module")
def content(trees, tmp_path_factory):
    """What a checkpoint of a small run holds."""
    output = tmp_path_factory.mktemp("broken")
    run = train(flags("PaDiM", "mvtec", trees, output))
    return torch.load(run.checkpoint, weights_only=True)


def without(content, *keys):
    """A copy in which the last of the keys, each within the one before, is missing."""
    *outer, last = keys
    changed = dict(content)
    inner = changed
    for key in outer:
        inner[key] = dict(inner[key])
        inner = inner[key]
    del inner[last]
    return changed


def configured(content, **changes):
    config = yaml.safe_load(content[CONFIG_KEY])
    return {**content, CONFIG_KEY: yaml.safe_dump({**config, **changes})}


BROKEN = {
    "no configuration": lambda c: without(c, CONFIG_KEY),
    "no YAML": lambda c: {**c, CONFIG_KEY: "a: ["},
    "a list": lambda c: {**c, CONFIG_KEY: "[1]"},
    "a list that holds itself": lambda c: {**c, CONFIG_KEY: "&a [*a]"},
    "no model": lambda c: configured(c, model=None),
    "a model that is a number": lambda c: configured(c, model={"class_path": 3}),
    "a model that is not there": lambda c: configured(c, model={"class_path": "lightning_ad.no.X"}),
    "a model without a module": lambda c: configured(c, model={"class_path": "X"}),
    "no data": lambda c: configured(c, data=3),
    "no trainer": lambda c: {**c, CONFIG_KEY: c[CONFIG_KEY].replace("\ntrainer:", "\ntrainers:")},
    "no weights": lambda c: without(c, "state_dict"),
    "a weight is missing": lambda c: without(c, "state_dict", "fitted"),
    "weights of another kind": lambda c: {**c, "state_dict": 3},
    "no calibration": lambda c: without(c, "calibration"),
    "half a calibration": lambda c: without(c, "calibration", "maxima"),
    "a calibration of numbers": lambda c: {**c, "calibration": dict.fromkeys(c["calibration"], 3)},
    "no training images": lambda c: without(c, "training_paths"),
    "a count that is none": lambda c: {**c, "trained_images": "many"},
}
EVALUATED = ("no model", "no trainer", "no weights")  # by the command too, which takes longer


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_refused_in_a_sentence(content, tmp_path, name):
    path = tmp_path / "broken.ckpt"
    torch.save(BROKEN[name](content), path)
    with pytest.raises(UserError) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    if name in EVALUATED:
        with pytest.raises(UserError):
            evaluate([str(path), "--output", str(tmp_path)])


def test_parts_that_grow_are_refused_before_they_are_unpacked(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, tmp_path / "stored.ckpt")
    packed = tmp_path / "packed.ckpt"
    with (
        zipfile.ZipFile(tmp_path / "stored.ckpt") as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for part in source.namelist():
            target.writestr(part, source.read(part))
    check_whole(tmp_path / "stored.ckpt")
    assert packed.stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"packed\.ckpt is refused: its parts would grow to 40"):
        read_state(packed)


def test_a_number_that_stands_for_a_large_tensor_is_refused(tmp_path):
    state = {"a": torch.zeros(1).expand(10**9), "b": torch.zeros(3)}
    torch.save({"state_dict": state}, tmp_path / "spread.ckpt")
    with pytest.raises(WeightsError, match="its tensors would grow to 4000000012 bytes"):
        read_state(tmp_path / "spread.ckpt")


VALUES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_part_may_be_of_another_kind(content, tmp_path_factory, data):
    key = data.draw(st.sampled_from([*sorted(content), *sorted(content["calibration"])]))
    value = data.draw(VALUES)
    changed = dict(content)
    if key in content:
        changed[key] = value
    else:
        changed["calibration"] = {**content["calibration"], key: value}
    path = tmp_path_factory.getbasetemp() / "fuzzed.ckpt"
    torch.save(changed, path)
    with suppress(UserError):
        load(path)
