import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_ad.statistics.moments import Moments, NormMoments

ROOT = Path(__file__).parents[2]


def vectors(images=75, positions=5, dimension=7, offset=0.0):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.rand(positions, dimension, dimension, generator=generator)
    values = torch.rand(images, positions, dimension, generator=generator).square()
    return torch.einsum("npd,pde->npe", values, mixing) + offset


def observed(values, sizes, **options):
    moments = Moments(*values.shape[1:], **options)
    for part in values.split(sizes):
        moments.update(part)
    return moments.finish()


def assert_close(moments, values, tolerance):
    values = values.double().numpy()
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=tolerance)
    for position, scatter in enumerate(moments.scatter.numpy()):
        expected = np.cov(values[:, position].T, bias=True) * len(values)
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("sizes", [1, 4, 64, 75])
def test_mean_and_scatter_are_those_of_numpy(sizes):
    values = vectors()
    assert_close(observed(values, sizes), values, 1e-12)


def test_batches_do_not_change_a_bit():
    values = vectors()
    assert torch.equal(observed(values, 1).scatter, observed(values, 75).scatter)


def test_float32_does_not_cancel():
    """A mean 1000 times the deviation would cost raw sums six of float32's seven digits."""
    values = vectors(500, offset=1000.0)
    assert_close(observed(values, 16, dtype=torch.float32), values, 1e-4)
    raw = values[:, 0].T @ values[:, 0] - 500 * values[:, 0].mean(0).outer(values[:, 0].mean(0))
    truth = 499 * torch.cov(values[:, 0].double().T)
    assert (raw - truth).abs().max() > 1e-2 * truth.max()  # the test can tell


def test_merging_is_the_same_as_observing_all():
    values = vectors()
    first, second = observed(values[:20], 8), observed(values[20:], 8)
    first.merge(second)
    assert_close(first, values, 1e-12)
    empty = Moments(5, 7)
    empty.merge(first)
    empty.merge(Moments(5, 7))
    assert_close(empty, values, 1e-12)


def norm_moments(values):
    moments = NormMoments(*values.shape[1:])
    for part in values.split(10):
        moments.update(part)
    return moments.finish()


def assert_norms(moments, values):
    deviations = (values.double() - values.double().mean(0)).numpy()
    norms = (deviations**2).sum(2)
    np.testing.assert_allclose(moments.fourth, (norms**2).sum(0), rtol=1e-11)
    third = (norms[..., None] * deviations).sum(0)
    np.testing.assert_allclose(moments.third, third, rtol=0, atol=1e-11 * np.abs(third).max())


def test_fourth_powers_of_the_norms():
    values = vectors(offset=10.0)
    assert_norms(norm_moments(values), values)
    first, second = norm_moments(values[:50] + 1), norm_moments(values[50:])
    first.merge(second)
    shifted = torch.cat([values[:50] + 1, values[50:]])
    assert_norms(first, shifted)
    assert_close(first, shifted, 1e-11)


def test_going_on_from_earlier_moments():
    values = vectors()
    before, after = observed(values[:33], 8), Moments(5, 7)
    after.count, after.mean, after.scatter = before.count, before.mean, before.scatter
    after.update(values[33:])
    assert_close(after.finish(), values, 1e-12)


PROCESSES = """
import sys, torch, torch.distributed as dist
from test_moments import assert_close, assert_norms, vectors
from lightning_ad.statistics.moments import NormMoments
rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
values = vectors()
shares = [values[:60], values[60:60], values[60:]]
moments = NormMoments(5, 7)
moments.update(shares[rank])
moments.finish()
assert_close(moments, values, 1e-12)
assert_norms(moments, values)
every = [torch.empty_like(moments.scatter) for _ in range(world)]
dist.all_gather(every, moments.scatter)
assert all(torch.equal(every[0], other) for other in every)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_processes_are_merged_even_where_one_has_seen_nothing(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, str(rank), "3", str(tmp_path / "meet")],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
