"""The end of a run: the first process writes, the others wait, whether it succeeds or fails."""

from types import SimpleNamespace

import pytest

from lightning_ad.cli import steps
from lightning_ad.errors import UserError


@pytest.mark.parametrize("error", [None, UserError("the disk is full")])
def test_no_process_waits_for_one_that_failed(monkeypatch, error):
    done = []

    def summarise(run, watch):
        done.append("summarised")
        if error is not None:
            raise error

    monkeypatch.setattr(steps, "summarise", summarise)
    strategy = SimpleNamespace(barrier=lambda: done.append("met"))
    recorder = SimpleNamespace(folder="the folder of the first process")
    run = SimpleNamespace(trainer=SimpleNamespace(strategy=strategy), recorder=recorder)
    if error is None:
        assert steps.finish(run, None) == recorder.folder
    else:
        with pytest.raises(UserError, match="the disk is full"):
            steps.finish(run, None)
    assert done == ["summarised", "met"]
