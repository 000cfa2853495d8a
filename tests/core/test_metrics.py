"""Scores against skimage and closed forms, and the published kernels' correlations."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import signal
from skimage import color
from skimage import metrics as reference

from kernelfusion_plugin.core import kernel_align, kernels, metrics
from kernelfusion_plugin.core.back_projection import back_project
from kernelfusion_plugin.core.degradation import Degradation, upscale_bicubic


def picture(height=61, width=83, seed=0):
    """A smooth random RGB image in [-1, 1]."""
    x = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(x, (height, width), mode='bicubic').clamp(0, 1) * 2 - 1


def noisy(x, sigma=0.1, seed=1):
    return (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)).clamp(-1, 1)


def luma(x):
    """Y by skimage, from [-1, 1] (1, 3, H, W)."""
    return color.rgb2ycbcr(((x[0] + 1) / 2).permute(1, 2, 0).numpy())[..., 0]


def test_y_is_skimages():
    x = picture()
    np.testing.assert_allclose(metrics.rgb_to_y(x)[0, 0].numpy(), luma(x), atol=1e-9)
    grey = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    torch.testing.assert_close(metrics.rgb_to_y(grey).flatten(), torch.tensor([16.0, 235.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize('border', [0, 4, 0.05, 0.2, 0.0])
def test_psnr_and_ssim_are_skimages(border):
    x_true = picture()
    x = noisy(x_true)
    rows, cols = (int(border * 61), int(border * 83)) if isinstance(border, float) else (border, border)
    a, b = (luma(z)[rows:61 - rows, cols:83 - cols] for z in (x, x_true))
    assert metrics.psnr_y(x, x_true, border) == pytest.approx(
        reference.peak_signal_noise_ratio(b, a, data_range=255), abs=1e-6)
    assert metrics.ssim_y(x, x_true, border) == pytest.approx(
        reference.structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5,
                                        use_sample_covariance=False), abs=1e-6)


def test_the_default_border_is_the_papers():
    x_true = picture(100, 60)
    x = x_true.clone()
    x[..., :5, :] = 0
    x[..., :, -3:] = 0
    assert metrics.psnr_y(x, x_true) == math.inf  # 5 and 3 pixels: 5 % of 100 and of 60
    x[..., 5, 10] = 0.123
    assert metrics.psnr_y(x, x_true) < 100


def test_identical_and_known_differences():
    x = picture()
    assert metrics.psnr_y(x, x) == math.inf and metrics.ssim_y(x, x) == pytest.approx(1)
    grey = torch.zeros(3, 40, 40)
    step = 2 / 219 * 10  # ten levels of Y
    assert metrics.psnr_y(grey, grey + step) == pytest.approx(20 * math.log10(25.5), abs=1e-3)
    assert metrics.psnr_y(grey[None], grey + step) == metrics.psnr_y(grey, grey + step)


def test_float32_is_as_good():
    x_true = picture()
    x = noisy(x_true)
    assert metrics.ssim_y(x.float(), x_true.float()) == pytest.approx(metrics.ssim_y(x, x_true), abs=1e-5)


@pytest.mark.parametrize(('call', 'words'), [
    (lambda: metrics.psnr_y(torch.zeros(3, 9, 9), torch.zeros(3, 9, 8)), 'size'),
    (lambda: metrics.psnr_y(torch.zeros(2, 3, 9, 9), torch.zeros(2, 3, 9, 9)), 'one image'),
    (lambda: metrics.psnr_y(torch.zeros(1, 9, 9), torch.zeros(1, 9, 9)), 'RGB'),
    (lambda: metrics.psnr_y(torch.zeros(3, 9, 9).byte(), torch.zeros(3, 9, 9).byte()), 'uint8'),
    (lambda: metrics.psnr_y(torch.zeros(3, 9, 9), torch.zeros(3, 9, 9), 0.5), 'border'),
    (lambda: metrics.psnr_y(torch.zeros(3, 9, 9), torch.zeros(3, 9, 9), 5), 'border'),
    (lambda: metrics.psnr_y(torch.zeros(3, 9, 9), torch.zeros(3, 9, 9), -1), 'border'),
    (lambda: metrics.ssim_y(torch.zeros(3, 10, 20), torch.zeros(3, 10, 20), 0), '11 x 11'),
    (lambda: metrics.kernel_ncc(torch.ones(3, 4), torch.ones(3, 3)), 'square'),
    (lambda: metrics.kernel_ncc_best_shift(torch.ones(3, 3), torch.ones(3, 3), -1), 'max_shift'),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert '\n' not in str(error.value)


def test_kernel_ncc_of_known_cases():
    k = kernels.motion(24, 1)
    assert metrics.kernel_ncc(k, k) == pytest.approx(1)
    assert metrics.kernel_ncc(5 * k, k) == pytest.approx(1)
    a, b = torch.zeros(5, 5), torch.zeros(5, 5)
    a[1, 1] = b[2, 2] = 1
    assert metrics.kernel_ncc(a, b) == 0
    b[1, 1] = 1
    assert metrics.kernel_ncc(a, b) == pytest.approx(math.sqrt(0.5))
    assert metrics.kernel_ncc(torch.zeros(5, 5), b) == 0


def test_kernel_ncc_of_different_sizes_is_centre_on_centre():
    small, large = kernels.gaussian(13, sigmas=1.5), kernels.gaussian(25, sigmas=1.5)
    assert metrics.kernel_ncc(small, large) == pytest.approx(1, abs=1e-5)
    assert metrics.kernel_ncc(large, small) == pytest.approx(1, abs=1e-5)
    even, odd = kernels.gaussian(24, sigmas=3.0), kernels.gaussian(31, sigmas=3.0)
    assert metrics.kernel_ncc(even, odd) > 0.999
    assert metrics.kernel_ncc_best_shift(even, odd)[1] == (0, 0)


@pytest.mark.parametrize('by', [(0, 0), (2, -3), (-4, 4)])
def test_best_shift_undoes_a_shift(by):
    k = kernels.gaussian(24, [[3.0, 1.0], [1.0, 2.0]])
    ncc, found = metrics.kernel_ncc_best_shift(kernel_align.shift(k, by), k)
    assert found == (-by[0], -by[1]) and ncc == pytest.approx(1, abs=1e-4)


def test_best_shift_is_scipys_correlation():
    a, b = (torch.rand(9, 9, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    full = signal.correlate(b.double().numpy(), a.double().numpy(), mode='full')[8 - 3:8 + 4, 8 - 3:8 + 4]
    ncc, (dy, dx) = metrics.kernel_ncc_best_shift(a, b, max_shift=3)
    assert ncc == pytest.approx(full.max() / float(a.double().norm() * b.double().norm()))
    assert full[dy + 3, dx + 3] == pytest.approx(full.max())
    assert metrics.kernel_ncc_best_shift(a, b, 0)[0] == pytest.approx(metrics.kernel_ncc(a, b))


def test_of_equal_shifts_the_shorter_one_is_found():
    dot, two = torch.zeros(2, 9, 9)
    dot[4, 4], two[1, 4], two[4, 6] = 1, 1, 1
    assert metrics.kernel_ncc_best_shift(dot, two) == (pytest.approx(0.5 ** 0.5), (0, 2))


def test_kernel_psnr():
    k = kernels.square(24, 16)
    assert metrics.kernel_psnr(3 * k, k) == math.inf
    other = k.clone()
    other[4:12], other[12:20] = 2 * k[4:12], 0  # off by the peak in every pixel of the square
    assert metrics.kernel_psnr(other, k) == pytest.approx(10 * math.log10(24 ** 2 / 16 ** 2), abs=1e-4)


def test_lr_consistency():
    degradation, k = Degradation(4, 24, 'reflect'), kernels.motion(24, 2)
    x = picture(64, 48)
    y = degradation.forward(x, k.double())
    assert metrics.lr_consistency(y, x, k, degradation) > 250
    assert metrics.lr_consistency((y + 0.02)[0], x[0].float(), k, degradation) == pytest.approx(40, abs=1e-3)
    y[..., :1, :] = 0
    assert metrics.lr_consistency(y, x, k, degradation) < 60 < metrics.lr_consistency(y, x, k, degradation, 1)
    with pytest.raises(ValueError, match='shape'):
        metrics.lr_consistency(y[..., 1:], x, k, degradation)


def test_kernel_lr_psnr_is_scipys():
    """(x * k)↓ by scipy: correlation, and the samples at s·i + (s - 1) / 2 for an even kernel."""
    x = picture(64, 80)
    k, k_true = kernels.motion(12, 1), kernels.motion(12, 2)
    lrs = [np.stack([signal.correlate2d(channel, z.double().numpy(), mode='valid')[::4, ::4] for channel in x[0]])
           for z in (k, k_true)]  # the window of LR pixel 1 begins at HR 4 - (12 - 4) / 2 = 0
    mse = np.square(lrs[0] - lrs[1]).mean()
    assert metrics.kernel_lr_psnr(k, k_true, x, 4) == pytest.approx(10 * math.log10(4 / mse), abs=1e-6)
    assert metrics.kernel_lr_psnr(3 * k, k, x, 4) > 140
    wide = torch.nn.functional.pad(k, (6, 6, 6, 6))  # the same kernel on a grid of 24
    assert metrics.kernel_lr_psnr(wide, k, x, 4) > 140


def test_kernel_lr_psnr_weighs_what_a_picture_shows():
    flat, x, k = torch.zeros(3, 64, 64), picture(64, 64), kernels.motion(24, 1)
    other = kernel_align.shift(k, (1, 0))
    assert metrics.kernel_lr_psnr(other / other.sum(), k, flat, 4) == math.inf
    assert metrics.kernel_lr_psnr(other / other.sum(), k, x, 4) < 45
    with pytest.raises(ValueError, match='leaves nothing'):
        metrics.kernel_lr_psnr(k, k, x[..., :16, :16], 4)


@pytest.mark.parametrize(('scale', 'size', 'reach'), [(4, 24, 3), (4, 31, 4), (2, 12, 3), (2, 11, 3), (4, 4, 0)])
def test_lr_reach_is_where_windows_leave_the_frame(scale, size, reach):
    """With a canvas of nan around the frame, exactly the LR pixels inside the reach are finite."""
    degradation = Degradation(scale, size)
    canvas = torch.full((1, 1, *degradation.hr_size((12, 12))), math.nan)
    degradation.crop(canvas)[...] = 1
    finite = torch.isfinite(degradation.forward(canvas, torch.full((size, size), 1 / size ** 2)))[0, 0]
    assert metrics.lr_reach(scale, size) == reach
    assert finite[reach:12 - reach, reach:12 - reach].all() and (reach == 0 or not finite[:, -reach].any())


def test_the_authors_crops(shared_data):
    """Measures 2 and 5: bicubic's published figures; PSNR and SSIM are skimage's on these crops; back-projection."""
    crops = json.loads((shared_data / 'official_crops' / 'crops.json').read_text())
    truth = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy'))
    for name, published in {'0813': 18.81, '0814': 17.23, '0827': 19.63}.items():
        crop = crops[name]
        y = read(shared_data / 'div2k' / 'LRx4' / f'{name}_k{crop["kernel"]:02d}.png').float()
        back = back_project(y, truth[crop['kernel']], 4)
        there = (..., *(slice(crop[at], crop[at] + n) for at, n in zip(('row', 'col'), crop['size'], strict=True)))
        x_true = read(shared_data / 'div2k' / 'HR' / f'{name}.png')[there]
        bicubic, back = (((z.clamp(-1, 1)[there] + 1) * 127.5).round().double() / 127.5 - 1
                         for z in (upscale_bicubic(y, 4), back))
        assert metrics.psnr_y(bicubic, x_true, 4) == pytest.approx(published, abs=0.05)
        assert metrics.psnr_y(back, x_true, 4) > metrics.psnr_y(bicubic, x_true, 4) + 1
        for x in (bicubic, back):
            a, b = (luma(z)[4:-4, 4:-4] for z in (x, x_true))
            assert metrics.psnr_y(x, x_true, 4) == pytest.approx(
                reference.peak_signal_noise_ratio(b, a, data_range=255), abs=1e-6)
            assert metrics.ssim_y(x, x_true, 4) == pytest.approx(
                reference.structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5,
                                                use_sample_covariance=False), abs=1e-6)


def read(path):
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)[None].double() / 127.5 - 1


def test_the_authors_kernels(shared_data):
    """The figures of the published recovered kernels, which fix the definition: no mean is taken off."""
    truth = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy'))
    found = torch.from_numpy(np.load(shared_data / 'kernels' / 'official_recovered_0802.npy'))
    scores = [metrics.kernel_ncc(k, k_true) for k, k_true in zip(found, truth, strict=True)]
    for i, score in {0: 0.954, 1: 0.944, 2: 0.975, 5: 0.886, 7: 0.828}.items():
        assert scores[i] == pytest.approx(score, abs=0.0006)
    for k, k_true in zip(found, truth, strict=True):
        assert metrics.kernel_ncc_best_shift(k, k_true)[0] >= metrics.kernel_ncc(k, k_true) - 1e-12
