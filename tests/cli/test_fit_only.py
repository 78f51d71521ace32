"""A finished fit takes more images if its method is the one that adds them."""

import pytest
from runs import flags

from lightning_ad.cli.fit_only import check_new_images
from lightning_ad.commands.train import train
from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.system.checkpoints import write_whole


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("DRAEM", "is a checkpoint of DRAEM, not of PatchCore"),
        ("PatchCore", "has no configuration in it: name a run of lightning-ad train"),
    ],
)
def test_what_cannot_be_extended(method, message, trees, tmp_path):
    learned = tmp_path / "learned.ckpt"
    write_whole({"method": method, "state_dict": {}}, learned)
    config = tmp_path / "extend.yaml"
    config.write_text(f"extend: {learned}\n")
    args = [*flags("PatchCore", "mvtec", trees, tmp_path / "runs"), "--config", str(config)]
    with pytest.raises(WeightsError, match=message):
        train(args)
    assert not (tmp_path / "runs").exists()


def test_one_folder_is_one_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "link").symlink_to("new")
    for spelled in ("new", f"{tmp_path}/new", "link", "new/../new", "./new"):
        for tile in ("", "@0,64"):
            with pytest.raises(UsageError, match=r"are in run already, .*000\.png"):
                check_new_images([f"{spelled}/000.png{tile}"], [f"new/000.png{tile}"], "run")
    check_new_images(["new/001.png", "new/000.png@0,64"], ["new/000.png", "new/000.png@0,0"], "run")
