"""An image is left out of a fit only if enough others remain."""

import pytest
import torch
from small import FIT_ONLY, small_arguments

from lightning_ad import methods
from lightning_ad.errors import UserError


@pytest.mark.parametrize("method", FIT_ONLY)
def test_leaving_an_image_out_of_too_few_is_refused(method):
    module = getattr(methods, method)(**small_arguments(method))
    with pytest.raises(UserError, match="training image"):
        module.leave_one_out(torch.rand(1, 3, 64, 64), torch.tensor([0]))
