import numpy as np
import torch
from perlin_numpy import generate_perlin_noise_2d

from lightning_ad.data.perlin import perlin_noise


def rng(*seed):
    return np.random.default_rng(seed)


def test_noise_of_a_batch_equals_perlin_numpy_given_the_same_gradients():
    shape, grids = (64, 96), [(1, 1), (2, 32), (32, 4), (8, 8)]
    angles = torch.zeros(len(grids), 33, 33, dtype=torch.float64)
    expected = []
    for i, (rows, columns) in enumerate(grids):
        angles[i, : rows + 1, : columns + 1] = torch.from_numpy(
            2 * np.pi * rng(i).random((rows + 1, columns + 1))
        )
        expected.append(generate_perlin_noise_2d(shape, (rows, columns), rng=rng(i)))
    noise = perlin_noise(angles, torch.tensor(grids), *shape)
    np.testing.assert_allclose(noise.numpy(), np.stack(expected), atol=1e-12)
    single = perlin_noise(angles.float(), torch.tensor(grids), *shape)
    np.testing.assert_allclose(single.numpy(), np.stack(expected), atol=2e-5)
