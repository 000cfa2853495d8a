"""PSNR at the best shift, against scipy's own shifts and known cases."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from kernelfusion_plugin.core.metrics import luma_pair, psnr_y
from kernelfusion_plugin.core.shift_metrics import psnr_best_shift, psnr_best_subpixel_shift


def picture(seed=0, size=(96, 120), softness=2.0):
    """A band-limited random RGB image in [-1, 1], so that its shift by a fraction of a pixel is well defined."""
    noise = np.random.default_rng(seed).standard_normal((3, *size))
    smooth = ndimage.gaussian_filter(noise, (0, softness, softness), mode='wrap')
    return torch.from_numpy(smooth / np.abs(smooth).max())[None]


def moved(x, by):
    """x moved by (dy, dx) by scipy's spline of order 5."""
    return torch.from_numpy(ndimage.shift(x[0].numpy(), (0, *by), order=5, mode='mirror'))[None]


@pytest.mark.parametrize('by', [(0, 0), (2, -3), (-4, 4)])
def test_a_whole_shift_is_undone(by):
    x_true = picture()
    found = psnr_best_shift(torch.roll(x_true, by, (-2, -1)), x_true)
    assert found.psnr == math.inf and found.shift == tuple(-d for d in by)


@pytest.mark.parametrize('by', [(0.5, -0.25), (1.4, 2.7), (-0.1, 0.0)])
def test_a_fraction_is_undone(by):
    x_true = picture()
    x = moved(x_true, by)
    found = psnr_best_subpixel_shift(x, x_true)
    np.testing.assert_allclose(found.shift, [-d for d in by], atol=5e-3)
    whole = psnr_best_shift(x, x_true).psnr
    assert found.psnr > 60 > whole > psnr_y(x, x_true) - 1e-9


def test_it_is_skimages_registration():
    x_true = picture(1)
    spectrum = ndimage.fourier_shift(np.fft.fft2(x_true[0].numpy()), (0, 0.6, -1.3))
    x = torch.from_numpy(np.fft.ifft2(spectrum).real)[None] + 0.01 * picture(2, softness=0.5)
    a, b = (z[0].numpy() for z in luma_pair(x, x_true))
    expected = phase_cross_correlation(b, a, upsample_factor=100, normalization=None)[0]
    np.testing.assert_allclose(psnr_best_subpixel_shift(x, x_true).shift, expected, atol=0.02)


def test_without_a_shift_it_is_the_plain_score():
    x_true = picture()
    x = x_true + 0.05 * picture(3, softness=0.5)
    plain = psnr_y(x, x_true)
    assert psnr_best_shift(x, x_true).psnr == pytest.approx(plain, abs=1e-9)
    assert psnr_best_shift(x, x_true).shift == (0, 0)
    assert plain <= psnr_best_subpixel_shift(x, x_true).psnr < plain + 0.05


def test_the_border_bounds_the_shift():
    x_true = picture()
    x = torch.roll(x_true, (3, 0), (-2, -1))
    assert psnr_best_shift(x, x_true, 3).psnr == math.inf
    assert psnr_best_shift(x, x_true, 2).psnr < 60  # two pixels at most can be read there
    assert psnr_best_shift(x, x_true, 0).psnr == pytest.approx(psnr_y(x, x_true, 0))
    assert psnr_best_shift(x, x_true, 3, max_shift=0).psnr == pytest.approx(psnr_y(x, x_true, 3))
    with pytest.raises(ValueError, match='max_shift'):
        psnr_best_shift(x, x_true, max_shift=-1)


@pytest.mark.parametrize('x_true', [torch.zeros(1, 3, 40, 40), picture()[..., :1].expand(-1, -1, -1, 40)])
def test_flat_and_striped_pictures_have_scores(x_true):
    x = x_true + 0.1
    found = psnr_best_subpixel_shift(x, x_true)
    assert math.isfinite(found.psnr) and found.psnr == pytest.approx(psnr_y(x, x_true), abs=0.2)
    assert psnr_best_subpixel_shift(x_true, x_true).psnr == math.inf
