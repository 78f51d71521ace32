"""`lightning-ad evaluate`: what it takes."""

import pytest

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.errors import UsageError


def test_a_run_must_be_named():
    with pytest.raises(UsageError, match="name a run to evaluate"):
        evaluate([])
