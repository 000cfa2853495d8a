"""Codes of kernels: there and back, against numpy's own decomposition, and on matrices made about the mean."""

import numpy as np
import pytest
import torch

from kernelfusion_plugin.core.kernel_families import Mixture
from kernelfusion_plugin.core.kernel_pca import decode, pca_matrix
from kernelfusion_plugin.core.metrics import kernel_ncc


@pytest.fixture(scope='module')
def family():
    mixture = Mixture.from_options([{'type': 'isotropic', 'size': 15, 'sigma': [0.2, 3.0]}])
    generator = torch.Generator().manual_seed(0)
    return torch.stack([mixture.draw(generator) for _ in range(300)])


def worst(kernels, matrix):
    back = decode(kernels.flatten(1) @ matrix, matrix)
    torch.testing.assert_close(back.sum((1, 2)), torch.ones(len(back)))
    assert back.min() >= 0
    return min(kernel_ncc(a, b) for a, b in zip(kernels, back, strict=True))


def test_axes_are_those_of_the_singular_value_decomposition(family):
    matrix = pca_matrix(iter(family[:200]), 6)
    assert matrix.shape == (225, 6) and matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(6), atol=1e-5, rtol=0)
    _, _, axes = np.linalg.svd(family[:200].flatten(1).double().numpy())
    along = np.abs(axes[:4] @ matrix[:, :4].double().numpy())
    assert np.allclose(along, np.eye(4), atol=1e-3)
    assert (matrix.gather(0, matrix.abs().argmax(0, keepdim=True)) > 0).all()


def test_there_and_back_on_kernels_not_seen(family):
    matrix = pca_matrix(family[:200], 8)
    assert worst(family[200:], matrix) > 0.999
    assert worst(family[200:], pca_matrix(family[:200], 2)) < 0.9  # two axes are too few


def test_matrices_about_the_mean_come_back_too(family):
    """Those of DAN's own checkpoints."""
    centred = (family[:200] - family[:200].mean(0)).flatten(1).double()
    axes = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :8].float()
    plain = (family[200:].flatten(1) @ axes) @ axes.T
    plain = min(kernel_ncc(a, b) for a, b in zip(family[200:], plain.reshape(-1, 15, 15), strict=True))
    assert worst(family[200:], axes) > max(0.98, plain + 0.01)


def test_decoded_kernels_keep_their_code(family):
    matrix = pca_matrix(family[:200], 8)
    codes = family[200:].flatten(1) @ matrix
    torch.testing.assert_close(decode(codes, matrix).flatten(1) @ matrix, codes, atol=2e-3, rtol=0)


def test_too_few_kernels():
    with pytest.raises(ValueError, match='3 kernels have at most 3 principal axes, asked for 4'):
        pca_matrix(torch.rand(3, 5, 5), 4)
    with pytest.raises(ValueError, match='0 kernels'):
        pca_matrix([], 1)
