"""A short version of benchmarks/kill_test.py."""

import importlib.util

import pytest
from runs import ROOT
from scripts import script_server

specification = importlib.util.spec_from_file_location(
    "kill_test", ROOT / "benchmarks/kill_test.py"
)
kill_test = importlib.util.module_from_spec(specification)
specification.loader.exec_module(kill_test)


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["CFA", "PatchCore"])
def test_killed_at_random_moments(method, trees, tmp_path):
    said = kill_test.trial(method, 3, 1, trees, tmp_path, script_server())
    assert "3 kills" in said
    assert "every run ended bit for bit as the undisturbed one" in said
