"""Which version of a run is made, resumed and found."""

import pytest

from lightning_ad.errors import UsageError
from lightning_ad.system.run_folder import RunFolder, finished_checkpoint


def version(output, number, *files):
    folder = output / "mine" / f"version_{number}"
    folder.mkdir(parents=True)
    for name in ("config.yaml", *files):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return RunFolder(folder)


def test_versions_are_counted_on_from_the_highest_number(tmp_path):
    assert RunFolder.create(tmp_path, "mine").path.name == "version_0"
    version(tmp_path, 9)
    (tmp_path / "mine/version_x").mkdir()
    assert RunFolder.create(tmp_path, "mine").path.name == "version_10"
    found = [run.path.name for run in RunFolder.versions(tmp_path / "mine")]
    assert found == ["version_0", "version_9", "version_10"]
    assert RunFolder.versions(tmp_path / "other") == []


def test_an_empty_run_is_discarded_with_its_name(tmp_path):
    RunFolder.create(tmp_path, "mine").discard()
    assert list(tmp_path.iterdir()) == []
    version(tmp_path, 0)
    RunFolder.create(tmp_path, "mine").discard()
    assert [run.path.name for run in RunFolder.versions(tmp_path / "mine")] == ["version_0"]


def test_the_newest_version_that_has_something_is_resumed(tmp_path):
    with pytest.raises(UsageError, match=r"no unfinished run in .*: it holds no run"):
        RunFolder.unfinished(tmp_path, "mine")
    version(tmp_path, 0, "checkpoints/last.ckpt")
    version(tmp_path, 1, "checkpoints/last.ckpt")
    version(tmp_path, 2)
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_1"
    (tmp_path / "mine/version_1/metrics.json").touch()
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_0"
    (tmp_path / "mine/version_0/metrics.json").touch()
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_2"
    (tmp_path / "mine/version_2/checkpoints/progress").mkdir(parents=True)
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_2"
    (tmp_path / "mine/version_2/metrics.json").touch()
    with pytest.raises(UsageError, match="all 3 are finished"):
        RunFolder.unfinished(tmp_path, "mine")


def test_the_newest_finished_version_is_found(tmp_path):
    with pytest.raises(UsageError, match="there is no run in"):
        RunFolder.find(tmp_path / "mine")
    unfinished = version(tmp_path, 2)
    with pytest.raises(UsageError, match="holds only unfinished runs"):
        RunFolder.find(tmp_path / "mine")
    with pytest.raises(UsageError, match="is unfinished"):
        RunFolder.find(unfinished.path)
    version(tmp_path, 0, "metrics.json")
    newest = version(tmp_path, 1, "metrics.json", "checkpoints/last.ckpt")
    assert RunFolder.find(tmp_path / "mine").path == newest.path
    assert finished_checkpoint(tmp_path / "mine") == newest.last_checkpoint
    newest.best_checkpoint.touch()
    assert finished_checkpoint(newest.path) == newest.best_checkpoint
    assert finished_checkpoint(tmp_path / "a.ckpt") == tmp_path / "a.ckpt"


@pytest.mark.parametrize("name", ["../out", "/out", "mine/../../out"])
def test_a_name_does_not_lead_out_of_the_output(name, tmp_path):
    with pytest.raises(UsageError, match="its name is a folder in"):
        RunFolder.create(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir())
