"""The metrics with a border as a fraction, through BasicSR's registry and against scikit-image."""

import math

import numpy as np
import pytest
from basicsr.metrics import calculate_metric
from glue_helpers import texture
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kernelfusion_plugin.metrics import calculate_psnr_border, calculate_ssim_border


@pytest.fixture
def pair():
    truth = texture(100, 140, 1)
    noise = np.random.default_rng(0).normal(0, 12, truth.shape)
    return np.clip(truth + noise, 0, 255).round().astype(np.uint8), truth


def luma(bgr):
    b, g, r = (bgr[..., i].astype(np.float64) / 255 for i in range(3))
    return 16 + 65.481 * r + 128.553 * g + 24.966 * b


def test_equal_to_scikit_image(pair):
    a, b = (luma(each)[5:-5, 7:-7] for each in pair)
    psnr = calculate_metric({'img': pair[0], 'img2': pair[1]}, {'type': 'calculate_psnr_border', 'better': 'higher'})
    assert psnr == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-6)
    ssim = calculate_metric({'img': pair[0], 'img2': pair[1]}, {'type': 'calculate_ssim_border', 'border': 0.05})
    _, field = structural_similarity(b, a, data_range=255, gaussian_weights=True, sigma=1.5,
                                     use_sample_covariance=False, full=True)
    assert ssim == pytest.approx(field[5:-5, 5:-5].mean(), abs=1e-6)


def test_border_in_pixels_agrees_with_basicsr(pair):
    data = {'img': pair[0], 'img2': pair[1]}
    theirs = calculate_metric(data, {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True})
    assert calculate_psnr_border(*pair, border=4) == pytest.approx(theirs, abs=1e-3)
    theirs = calculate_metric(data, {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True})
    assert calculate_ssim_border(*pair, border=4) == pytest.approx(theirs, abs=1e-4)


def test_order_of_axes_grey_and_identical_images(pair):
    turned = [each.transpose(2, 0, 1) for each in pair]
    assert calculate_psnr_border(*turned, input_order='CHW') == calculate_psnr_border(*pair)
    grey = [each[..., 0] for each in pair]
    assert calculate_psnr_border(*grey) == calculate_psnr_border(*(each[..., None] for each in grey))
    assert calculate_psnr_border(pair[1], pair[1]) == math.inf
    assert calculate_ssim_border(pair[1], pair[1]) == pytest.approx(1)


@pytest.mark.parametrize(('options', 'message'), [
    ({'crop_border': 4}, "unknown option 'crop_border'.*did you mean 'border'"), ({'border': 2.5}, 'border must be'),
    ({'border': 'x'}, 'border must be'), ({'border': 0.5}, 'leaves nothing'), ({'input_order': 'WHC'}, 'input_order')])
def test_wrong_options_are_refused(pair, options, message):
    with pytest.raises(ValueError, match=message):
        calculate_psnr_border(*pair, **options)
