"""PSNR at the best shift: for blind results, whose kernel, and hence whose picture, may be displaced.

A shift between x and k cannot be seen in y. These scores tell how much of an error is shift; they are
reported beside the plain PSNR, under their own names, never in its place. Images are as in ``metrics``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import PAPER_BORDER, border_pixels, luma_pair, psnr

MARGIN = 16  # pixels of reflection around a picture before its Fourier transform, which wraps around


@dataclass(frozen=True)
class ShiftedPsnr:
    """A PSNR in dB and the shift (dy, dx) in pixels of x that gives it."""

    psnr: float
    shift: tuple[float, float]


def psnr_best_shift(x: Tensor, x_true: Tensor, border: float | int = PAPER_BORDER, max_shift: int = 4) -> ShiftedPsnr:
    """The highest :func:`~.metrics.psnr_y` over shifts of x by whole pixels.

    The scored window of x_true is that of the plain PSNR at all shifts; x is read beyond it by at most the width of the
    border, so no pixel is made up. Of equal scores, the shorter shift wins.

    Args:
        border: as for :func:`~.metrics.psnr_y`.
        max_shift: shifts of -max_shift … max_shift pixels on either axis are tried, fewer where the border is narrower.
    """
    if max_shift < 0:
        raise ValueError(f'max_shift must not be negative, got {max_shift}')
    a, b = luma_pair(x, x_true)
    window = _Window(a, b, border)
    reach = min(max_shift, window.rows, window.cols)
    shifts = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    shifts.sort(key=lambda by: (by[0] ** 2 + by[1] ** 2, by))
    dy, dx = min(shifts, key=lambda by: window.mse(a, by))
    return ShiftedPsnr(psnr(window.mse(a, (dy, dx)), 255.0), (float(dy), float(dx)))


def psnr_best_subpixel_shift(x: Tensor, x_true: Tensor, border: float | int = PAPER_BORDER, max_shift: int = 4,
                             whole: ShiftedPsnr | None = None, rounds: int = 8) -> ShiftedPsnr:
    """The highest PSNR on Y over shifts of x by fractions of a pixel, by Gauss-Newton from the best whole-pixel shift.

    x is shifted through its Fourier transform (reflected at its edges), which preserves all frequencies;
    interpolation would blur by an amount that depends on the shift, and so affect the score. Never below
    :func:`psnr_best_shift`.

    Args:
        border, max_shift: as for :func:`psnr_best_shift`.
        whole: the result of :func:`psnr_best_shift` for these arguments, if at hand.
        rounds: maximum number of Gauss-Newton rounds.
    """
    whole = whole or psnr_best_shift(x, x_true, border, max_shift)
    a, b = luma_pair(x, x_true)
    window = _Window(a, b, border)
    best, at = whole, torch.tensor(whole.shift, dtype=torch.float64)
    fourier = _Fourier(a)
    for _ in range(rounds):
        moved, slopes = fourier.shifted(at)
        error = window.cut(moved) - window.truth
        J = torch.stack([window.cut(slope).flatten() for slope in slopes])  # d moved / d (dy, dx)
        gram = J @ J.T
        if not torch.linalg.det(gram) > 1e-9 * gram.diagonal().prod().clamp_min(1e-30):
            break  # flat, or stripes: no shift, or none along the stripes, changes anything
        step = -torch.linalg.solve(gram, J @ error.flatten())
        at = at + step.cpu().clamp(-0.5, 0.5)
        if (at - torch.tensor(whole.shift)).abs().max() > 1:
            break
        score = psnr(float((window.cut(fourier.shifted(at)[0]) - window.truth).square().mean()), 255.0)
        if score > best.psnr:
            best = ShiftedPsnr(score, (float(at[0]), float(at[1])))
        if step.abs().max() < 1e-3:
            break
    return best


class _Window:
    """The part of a picture (1, H, W) that is scored."""

    def __init__(self, a: Tensor, b: Tensor, border: float | int) -> None:
        self.rows, self.cols = border_pixels(b.shape[-2:], border)
        self.truth = self.cut(b)

    def cut(self, z: Tensor, by: tuple[int, int] = (0, 0)) -> Tensor:
        """The window of z moved by whole pixels ``by``."""
        height, width = z.shape[-2:]
        top, left = self.rows - by[0], self.cols - by[1]
        return z[..., top:top + height - 2 * self.rows, left:left + width - 2 * self.cols]

    def mse(self, a: Tensor, by: tuple[int, int]) -> float:
        return float((self.cut(a, by) - self.truth).square().mean())


class _Fourier:
    """Shifts of one picture (1, H, W) by fractions of a pixel, and their derivatives."""

    def __init__(self, a: Tensor) -> None:
        self.margin = [min(MARGIN, n - 1) for n in a.shape[-2:]]
        self.size = a.shape[-2:]
        rows, cols = self.margin
        padded = F.pad(a, (cols, cols, rows, rows), mode='reflect')
        self.padded_size = padded.shape[-2:]
        self.spectrum = torch.fft.rfft2(padded)
        self.frequencies = [2 * math.pi * torch.fft.fftfreq(padded.shape[-2], dtype=a.dtype, device=a.device)[:, None],
                            2 * math.pi * torch.fft.rfftfreq(padded.shape[-1], dtype=a.dtype, device=a.device)[None]]

    def shifted(self, by: Tensor) -> tuple[Tensor, list[Tensor]]:
        """a(i - dy, j - dx) and its derivatives with respect to dy and dx."""
        angle = sum(float(d) * f for d, f in zip(by, self.frequencies))
        moved = self.spectrum * torch.polar(torch.ones_like(angle), -angle)
        return self._back(moved), [self._back(-1j * f * moved) for f in self.frequencies]

    def _back(self, spectrum: Tensor) -> Tensor:
        z = torch.fft.irfft2(spectrum, s=self.padded_size)
        rows, cols = self.margin
        return z[..., rows:rows + self.size[0], cols:cols + self.size[1]]
