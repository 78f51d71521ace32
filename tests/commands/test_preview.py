"""`lightning-ad preview`: checks as those of a run, and no run."""

import pytest
from runs import flags

from lightning_ad.commands.preview import preview
from lightning_ad.errors import UsageError


def test_a_threshold_that_a_run_cannot_have_is_refused(trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--file", str(tmp_path / "sheet.png")]
    with pytest.raises(UsageError, match="takes the scores of 99 held-out good images"):
        preview([*args, "--threshold", "conformal"])
    assert not (tmp_path / "sheet.png").exists()
