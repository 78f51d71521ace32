"""What flags and YAML files say, before the parser of runs reads them."""

from pathlib import Path

import pytest

from lightning_ad.cli.settings import GivenSettings, configs, with_demo, without
from lightning_ad.errors import UsageError


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {class_path: lightning_ad.methods.PaDiM, init_args: {dimension: 9}}\n"
        "data: {layout: folder, root: of_the_file, layout_options: {test_share: 0.5}}\n"
    )
    return ["--config", str(path)]


def test_the_last_one_of_a_key_counts(config, tmp_path):
    assert GivenSettings(config).root == Path("of_the_file")
    assert GivenSettings([*config, "--data.root=typed"]).root == Path("typed")
    assert GivenSettings(["--data.root", "typed", *config]).root == Path("of_the_file")
    second = tmp_path / "second.yaml"
    second.write_text("data: {layout: mvtec}\n")
    both = GivenSettings([*config, "-c", str(second)])
    assert (both.layout, both.root) == ("mvtec", Path("of_the_file"))


def test_a_key_is_itself_alone(config):
    """--model PatchCore is not hidden by --model.coreset_ratio, which sets a part of it."""
    given = GivenSettings([*config, "--model", "PatchCore", "--model.coreset_ratio", "0.1"])
    assert given.get("model") == "PatchCore"
    assert GivenSettings(config).get("model.class_path") == "lightning_ad.methods.PaDiM"
    assert GivenSettings(config).get("model.class_path.further") is None
    assert GivenSettings([]).get("data.category") is None


def test_options_of_the_layout(config):
    flags = [
        *config,
        "--data.layout_options.mask_threshold",
        "9",
        "--data.layout_options.none",
        "1",
    ]
    assert GivenSettings(flags).layout_options() == {"test_share": 0.5, "mask_threshold": "9"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ("data: [", "is not YAML"),
        ("- 1", "holds no settings"),
        ("{1: 2}", "holds no settings"),
        ("data: 3", "data: expected settings by name, got 3"),
        ("trainer: [1]", r"trainer: expected settings by name, got \[1\]"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    path = tmp_path / "wrong.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        GivenSettings(["--config", str(path)])


def test_flags_are_left_out_with_their_values():
    args = ["--name", "x", "--resume", "--data.tile=3", "--data.category", "all"]
    assert without(args, "--name", "--resume") == ["--data.tile", "3", "--data.category", "all"]
    assert without(args, "--data.tile") == ["--name", "x", "--resume", "--data.category", "all"]


def test_the_demo_is_what_runs_without_a_config():
    demo = ["--config", str(configs() / "demo.yaml")]
    assert with_demo(["--data.tile", "8"]) == [*demo, "--data.tile", "8"]
    for args in (["--config", "x"], ["-c", "x"], ["--help"], ["--model.help", "PaDiM"]):
        assert with_demo(args) == args
    with pytest.raises(UsageError, match=r"--data\.category without --config"):
        with_demo(["--data.category=x"])


def test_homes_are_written_out_before_categories_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("output: ~/runs\ndata:\n  root: ~/d\n")
    given = GivenSettings(["--config=~/own.yaml"])
    assert given.root == tmp_path / "d"
    assert given.get("output") == f"{tmp_path}/runs"
    assert GivenSettings(["--data.root=~/e"]).root == tmp_path / "e"
