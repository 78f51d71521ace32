"""The contract of the fit-only methods; a new method is one class here."""

import pytest
import torch
from contract import FitOnlyContract, fit_over_processes, training_images, tree_data

from lightning_ad.statistics.coreset import random_projection


@pytest.fixture(scope="module")
def fits_over_processes(trees, tmp_path_factory):
    """Of all methods at once, for each number of processes once."""
    done = {}

    def fits(processes):
        if processes not in done:
            folder = tmp_path_factory.mktemp(f"processes{processes}")
            done[processes] = fit_over_processes(processes, trees["mvtec"], folder)
        return done[processes]

    return fits


class TestPatchCore(FitOnlyContract):
    method = "PatchCore"
    options = {"layer_dimension": 40, "dimension": 32, "coreset_ratio": 0.2, "projection": 8}
    selects = True

    def assert_grown(self, first, grown, whole, trees):
        """No patch is farther from the bank than twice the radius of a fit on all images, and the first fit's."""
        bank, all_of_one = grown.banks[0], whole.banks[0]
        assert len(bank.bank) == len(all_of_one.bank)
        assert {*bank.origin[:, 0].tolist()} > {*range(7, 12)}
        images = training_images(tree_data(trees["all"]))
        matrix = random_projection(32, 8, torch.Generator().manual_seed(0)).double()
        patches = whole._patches(images, 0)[0].flatten(0, 1).double() @ matrix
        radius = torch.cdist(patches, bank.bank.double() @ matrix).min(1).values.max()
        assert radius <= 2 * all_of_one.radius + first.banks[0].radius
        assert radius <= bank.radius * (1 + 1e-5)
        found = torch.cdist(patches, all_of_one.bank.double() @ matrix).min(1).values.max()
        assert all_of_one.radius.item() == pytest.approx(found.item(), rel=1e-4)


class TestPaDiM(FitOnlyContract):
    method = "PaDiM"
    options = {"dimension": 20}


class TestSPADE(FitOnlyContract):
    method = "SPADE"
    options = {"k_image": 3, "k_pixel": 3}
    selects = True


class TestMahalanobisAD(FitOnlyContract):
    method = "MahalanobisAD"
