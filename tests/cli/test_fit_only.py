"""A finished fit takes more images if its method is the one that adds them."""

import pytest
from runs import flags

from lightning_ad.commands.train import train
from lightning_ad.errors import WeightsError
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
