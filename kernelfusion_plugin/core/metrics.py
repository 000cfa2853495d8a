"""Metrics: PSNR and SSIM on Y without a border, kernel correlation and PSNR, consistency with the LR image.

Images are single float RGB images in [-1, 1], (3, H, W) or (1, 3, H, W). They are neither clamped nor rounded to
8 bits; convert uint8 values by u / 127.5 - 1. Scores are Python floats computed in float64; degradations are computed
in the image's own dtype.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import LUMA
from .degradation import Degradation
from .kernel_align import check_square, normalise, resize

PAPER_BORDER = 0.05  # KernelFusion, Table 2: "after excluding an image boundary of 5%"


def rgb_to_y(x: Tensor) -> Tensor:
    """ITU-R BT.601 luma in studio range, as in MATLAB's rgb2ycbcr and BasicSR.

    Y = 16 + 219 (0.299 R + 0.587 G + 0.114 B) with R, G, B in [0, 1]: from 16 (black) to 235 (white), not rounded.

    Args:
        x: (..., 3, H, W), RGB in [-1, 1].

    Returns:
        (..., 1, H, W) in the dtype of x.

    Raises:
        ValueError: not three channels, or not floating point.
    """
    if x.ndim < 3 or x.shape[-3] != 3:
        raise ValueError(f'Y needs an RGB image (..., 3, H, W), got shape {tuple(x.shape)}')
    if not x.is_floating_point():
        raise ValueError(f'Y needs floats in [-1, 1], got {x.dtype}: convert uint8 by x / 127.5 - 1')
    weights = x.new_tensor([219 * share for share in LUMA]).reshape(3, 1, 1)
    return 16 + ((x + 1) / 2 * weights).sum(-3, keepdim=True)


def crop_border(x: Tensor, border: float | int) -> Tensor:
    """x (..., H, W) without its border.

    Args:
        border: a float is the fraction of the height (width) removed on each side, 0 <= border < 0.5, rounded down to
            whole pixels; an int is the number of pixels removed on each side.

    Raises:
        ValueError: nothing would be left.
    """
    rows, cols = border_pixels(x.shape[-2:], border)
    return x[..., rows:x.shape[-2] - rows, cols:x.shape[-1] - cols]


def border_pixels(size: tuple[int, int], border: float | int) -> tuple[int, int]:
    """(rows, cols) that :func:`crop_border` removes on each side of an image of ``size`` (H, W)."""
    height, width = size
    if isinstance(border, float):
        rows, cols = math.floor(border * height + 1e-9), math.floor(border * width + 1e-9)
    else:
        rows = cols = border
    if border < 0 or 2 * rows >= height or 2 * cols >= width or (isinstance(border, float) and border >= 0.5):
        raise ValueError(f'a border of {border} on each side leaves nothing of an image of {height} x {width}: '
                         'give a fraction below 0.5 or fewer pixels')
    return rows, cols


def psnr_y(x: Tensor, x_true: Tensor, border: float | int = PAPER_BORDER) -> float:
    """10 log10(255² / MSE) on Y, in dB; ``inf`` for identical images.

    Args:
        x, x_true: RGB in [-1, 1], of the same size.
        border: see :func:`crop_border`; default: the paper's 5 %.
    """
    a, b = (crop_border(y, border) for y in luma_pair(x, x_true))
    return _psnr(a, b, 255.0)


def ssim_y(x: Tensor, x_true: Tensor, border: float | int = PAPER_BORDER) -> float:
    """Mean SSIM on Y (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, L = 255.

    The border is removed first; the mean is over the windows that lie entirely inside the rest.

    Raises:
        ValueError: the rest has fewer than 11 rows or columns.
    """
    a, b = (crop_border(y, border)[None] for y in luma_pair(x, x_true))
    if min(a.shape[-2:]) < 11:
        raise ValueError(f'SSIM needs 11 x 11 pixels inside the border, {a.shape[-2]} x {a.shape[-1]} are left')
    line = torch.exp(-0.5 * ((torch.arange(11, dtype=a.dtype, device=a.device) - 5) / 1.5) ** 2)
    line = line / line.sum()

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.reshape(1, 1, 11, 1)), line.reshape(1, 1, 1, 11))

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a ** 2, mean(b * b) - mu_b ** 2, mean(a * b) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + c1) / (mu_a ** 2 + mu_b ** 2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return float((luminance * structure).mean())


def kernel_ncc(k: Tensor, k_true: Tensor) -> float:
    """Zero-shift normalised correlation <k, k_true> / (|k| |k_true|), without subtracting means.

    Invariant to scale; 1 for equal shapes; 0 if a kernel is all zeros. Kernels of different sizes are compared on the
    larger grid, with centres aligned: the smaller one is padded with zeros and, if one size is odd and the other even,
    shifted by half a pixel (bilinear).
    """
    a, b = _kernel_pair(k, k_true)
    return _ratio(float((a * b).sum()), a, b)


def kernel_ncc_best_shift(k: Tensor, k_true: Tensor, max_shift: int = 4) -> tuple[float, tuple[int, int]]:
    """The highest normalised correlation over shifts of k by whole pixels, and that shift (dy, dx).

    Zero padding keeps all mass on the grid. Ties go to the shorter shift.

    Args:
        max_shift: shifts of -max_shift … max_shift pixels along each axis are tried.
    """
    if max_shift < 0:
        raise ValueError(f'max_shift must not be negative, got {max_shift}')
    a, b = _kernel_pair(k, k_true)
    scores = F.conv2d(F.pad(b, (max_shift,) * 4)[None, None], a[None, None])[0, 0]  # [i, j]: k moved by i - max_shift
    steps = torch.arange(-max_shift, max_shift + 1, dtype=scores.dtype)
    length = (steps[:, None] ** 2 + steps ** 2) * 1e-12 * float(scores.abs().max())
    dy, dx = divmod(int((scores - length).argmax()), 2 * max_shift + 1)
    return _ratio(float(scores[dy, dx]), a, b), (dy - max_shift, dx - max_shift)


def kernel_psnr(k: Tensor, k_true: Tensor) -> float:
    """10 log10(max(k_true)² / MSE(k, k_true)) in dB, after normalising both to sum 1; ``inf`` for equal kernels.

    Sizes are matched as in :func:`kernel_ncc`. (The peak is the maximum of k_true, as if that were drawn in white.)
    """
    a, b = (normalise(z) for z in _kernel_pair(k, k_true))
    return _psnr(a, b, float(b.max()))


def lr_consistency(y: Tensor, x: Tensor, k: Tensor, degradation: Degradation, border: float | int = 0) -> float:
    """PSNR in dB between y and (x * k)↓s over the three RGB channels, with peak 2 (the range [-1, 1]).

    Args:
        y: LR image (3, h, w) or (1, 3, h, w).
        x: HR image or canvas that ``degradation`` maps to y.
        k: (K, K).
        border: border of the LR image to exclude, see :func:`crop_border`, since x beyond its frame is a guess.
    """
    y, x = (z.detach().reshape(1, *z.shape[-3:]) for z in (y, x))
    degraded = degradation.forward(x, k.detach().to(x)).double()
    if degraded.shape != y.shape:
        raise ValueError(f'the degraded x has shape {tuple(degraded.shape)}, but y has {tuple(y.shape)}')
    return _psnr(crop_border(degraded, border), crop_border(y.to(degraded), border), 2.0)


def kernel_lr_psnr(k: Tensor, k_true: Tensor, x_true: Tensor, scale: int) -> float:
    """LR-image PSNR of a kernel (BlindDiff, Section 4.4): (x_true * k)↓s against (x_true * k_true)↓s, in dB.

    It weights a kernel's errors by their effect on an image. Computed over the three RGB channels, without 8-bit
    rounding, with peak 2 (the range [-1, 1]); LR pixels whose window leaves the frame are excluded. Kernels of
    different sizes are each applied on their own grid, see :class:`~.degradation.Degradation`.

    Args:
        k, k_true: (K, K) and (K', K').
        x_true: HR image (3, H, W) or (1, 3, H, W) in [-1, 1], H and W multiples of the scale.

    Raises:
        ValueError: the picture is too small for the kernels.
    """
    x = x_true.detach().reshape(1, *x_true.shape[-3:])
    sizes = [check_square(z) for z in (k, k_true)]
    a, b = (Degradation(scale, size, 'reflect').forward(x, normalise(z.detach().double()).to(x)).double()
            for size, z in zip(sizes, (k, k_true)))
    border = lr_reach(scale, max(sizes))
    return _psnr(crop_border(a, border), crop_border(b, border), 2.0)


def lr_reach(scale: int, kernel_size: int) -> int:
    """Number of LR pixels on each side whose K x K window leaves the frame."""
    return math.ceil((kernel_size - scale + 1) // 2 / scale) if kernel_size > scale else 0


def psnr(mse: float, peak: float) -> float:
    """10 log10(peak² / mse) in dB; ``inf`` at 0."""
    return math.inf if mse == 0 else 10 * math.log10(peak ** 2 / mse)


def _psnr(a: Tensor, b: Tensor, peak: float) -> float:
    return psnr(float((a - b).square().mean()), peak)


def luma_pair(x: Tensor, x_true: Tensor) -> tuple[Tensor, Tensor]:
    """Y of both images, (1, H, W), float64, after checking their shapes."""
    for z in (x, x_true):
        if z.ndim not in (3, 4) or (z.ndim == 4 and z.shape[0] != 1):
            raise ValueError(f'metrics take one image, (3, H, W) or (1, 3, H, W), got shape {tuple(z.shape)}')
    if x.shape[-3:] != x_true.shape[-3:]:
        raise ValueError(f'the images differ in size: {tuple(x.shape[-3:])} and {tuple(x_true.shape[-3:])}')
    a, b = (rgb_to_y(z.detach().double() if z.is_floating_point() else z) for z in (x, x_true))
    return a.reshape(1, *a.shape[-2:]), b.reshape(1, *b.shape[-2:]).to(a.device)


def _kernel_pair(k: Tensor, k_true: Tensor) -> tuple[Tensor, Tensor]:
    """Both kernels in float64 on the CPU, on the larger grid with centres aligned; a padded one is normalised."""
    pair = [z.detach().double().cpu() for z in (k, k_true)]
    size = max(check_square(z) for z in pair)
    a, b = (z if z.shape[0] == size else resize(z, size, factor=1.0) for z in pair)
    return a, b


def _ratio(product: float, a: Tensor, b: Tensor) -> float:
    norms = float(a.norm() * b.norm())
    return product / norms if norms > 0 else 0.0
