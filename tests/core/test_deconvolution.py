"""Constrained least squares against its equations written out in float64, and on blurs that are known."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from kernelfusion_plugin.core.deconvolution import constrained_least_squares, lr_space_kernel, transfer_function
from kernelfusion_plugin.core.degradation import Degradation, downscale_bicubic
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.core.metrics import kernel_ncc


def blur(x, k):
    """Circular convolution by scipy; (…, H, W) and (K, K)."""
    flat = x.reshape(-1, *x.shape[-2:]).numpy()
    return torch.from_numpy(np.stack([ndimage.convolve(one, k.numpy(), mode='wrap') for one in flat])).reshape(x.shape)


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(*shape, seed=0):
    return blur(features(*shape, seed=seed), gaussian(9, sigmas=1.2).double()) * 4


LAPLACIAN = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)


@pytest.mark.parametrize('size', [(16, 16), (17, 23), (21, 12)])
def test_transfer_function_multiplies_where_convolution_convolves(size):
    x, k = features(1, 1, *size), motion(11, 3).double()
    by_transform = torch.fft.irfft2(torch.fft.rfft2(x) * transfer_function(k, size), s=size)
    torch.testing.assert_close(by_transform, blur(x, k))


def test_solves_the_normal_equations():
    """KᵀK f + PᵀP f = Kᵀ g with matrices written out, for each picture and channel its own."""
    g, k = features(2, 3, 9, 8), torch.rand(2, 1, 5, 5, dtype=torch.float64)
    p = features(2, 3, 3, 3, seed=1)
    found = constrained_least_squares(g, k, p)
    unit = torch.eye(72, dtype=torch.float64).reshape(72, 9, 8)
    for b in range(2):
        for c in range(3):
            K = blur(unit, k[b, 0]).reshape(72, 72).T
            P = blur(unit, p[b, c]).reshape(72, 72).T
            exact = torch.linalg.solve(K.T @ K + P.T @ P, K.T @ g[b, c].flatten())
            torch.testing.assert_close(found[b, c].flatten(), exact)


@pytest.mark.parametrize('size', [(48, 48), (47, 60)])
def test_a_blurred_feature_map_comes_back(size):
    f, k = smooth(1, 4, *size), gaussian(11, sigmas=(1.6, 0.9), theta=0.5).double()
    g = blur(f, k)
    found = constrained_least_squares(g, k[None, None], 1e-4 * LAPLACIAN[None, None])
    assert float((found - f).norm() / f.norm()) < 1e-2 < float((g - f).norm() / f.norm())
    single = constrained_least_squares(g.float(), k[None, None].float(), 1e-4 * LAPLACIAN[None, None].float())
    assert float((single - found).norm() / found.norm()) < 5e-3


def test_more_smoothness_less_detail():
    f, k = smooth(1, 1, 32, 32), gaussian(7, sigmas=1.0).double()[None, None]
    detail = [float(blur(constrained_least_squares(f, k, s * LAPLACIAN[None, None]), LAPLACIAN).norm())
              for s in (0.01, 0.1, 1.0)]
    assert detail[0] > 1.5 * detail[1] > 2 * detail[2]


def test_gradients_reach_all_three():
    g, k, p = features(1, 2, 8, 9), torch.rand(1, 1, 3, 3, dtype=torch.float64), features(1, 2, 3, 3, seed=1)
    assert torch.autograd.gradcheck(constrained_least_squares, [t.requires_grad_() for t in (g, k, p)])


def test_lr_space_kernel_of_an_lr_blur_is_that_blur():
    x, k = torch.rand(2, 3, 64, 75, dtype=torch.float64), motion(11, 5).double()
    found = lr_space_kernel(x, blur(x, k), 11)
    assert found.shape == (2, 1, 11, 11)
    torch.testing.assert_close(found.sum((-2, -1)), torch.ones(2, 1, dtype=torch.float64))
    for one in found:
        assert kernel_ncc(one[0], k) > 0.995


@pytest.mark.parametrize(('scale', 'sigma'), [(2, 2.5), (4, 2.5), (4, 4.0)])
def test_lr_space_kernel_explains_an_hr_blur(scale, sigma):
    picture = pytest.importorskip('skimage.data').astronaut()[:256, 100:356]
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255
    y = Degradation(scale, 21, 'reflect').forward(x, gaussian(21, sigmas=(sigma, 0.8 * sigma), theta=0.4))
    sharp = downscale_bicubic(x, scale)
    k = lr_space_kernel(sharp, y, 21)
    inner = (..., slice(12, -12), slice(12, -12))
    assert (blur(sharp, k[0, 0]) - y)[inner].norm() / (sharp - y)[inner].norm() < 0.35
    turned = lr_space_kernel(sharp.flip(-2, -1), y.flip(-2, -1), 21)[0, 0].flip(-2, -1)
    assert kernel_ncc(turned, k[0, 0]) > 0.999


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_bicubic_reduction_is_pils(scale):
    x = torch.rand(1, 1, 12 * scale, 15 * scale)
    by_pil = Image.fromarray(x[0, 0].numpy()).resize((15, 12), Image.Resampling.BICUBIC)
    torch.testing.assert_close(downscale_bicubic(x, scale)[0, 0], torch.from_numpy(np.array(by_pil)), atol=1e-5, rtol=0)


@pytest.mark.parametrize('k', [torch.ones(1, 1, 4, 4), torch.ones(1, 1, 9, 9)])
def test_kernels_that_have_no_place(k):
    with pytest.raises(ValueError, match='must be odd'):
        constrained_least_squares(torch.zeros(1, 1, 8, 8), k, torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match='must be odd'):
        lr_space_kernel(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), k.shape[-1])
