"""A finished fit takes more images if its method is the one that adds them."""

import pytest
from runs import flags

from lightning_ad.commands.train import train
from lightning_ad.errors import WeightsError
from lightning_ad.system.checkpoints import write_whole


def test_a_run_of_another_method_is_not_extended(trees, tmp_path):
    learned = tmp_path / "learned.ckpt"
    write_whole({"method": "DRAEM", "state_dict": {}}, learned)
    config = tmp_path / "extend.yaml"
    config.write_text(f"extend: {learned}\n")
    args = [*flags("PatchCore", "mvtec", trees, tmp_path / "runs"), "--config", str(config)]
    with pytest.raises(WeightsError, match="is a checkpoint of DRAEM, not of PatchCore"):
        train(args)
    assert not (tmp_path / "runs").exists()
