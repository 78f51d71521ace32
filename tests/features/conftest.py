import pytest
import torch
from torchvision.models import squeezenet1_1


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file of weights of a squeezenet1_1."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(1)
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return str(path)
