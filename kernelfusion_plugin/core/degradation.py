"""The forward model y = (x * k)↓s and its adjoint. It alone defines centre, phase and border.

Conventions (recovered from the published data of Heinimann et al., KernelFusion, ICLR 2026):

* ``*`` is cross-correlation, as in ``F.conv2d``; the kernel is not flipped.
* With padding (K - s) / 2 the kernel's centre (K - 1) / 2 lies on the centre of LR pixel i, which is
  HR coordinate s·i + (s - 1) / 2: the half-pixel grid of PIL's and MATLAB's bicubic resampling.
  If K - s is odd, the smaller half of the padding is at the top left, so the centre lies half a pixel
  further to the lower right (K = 31, s = 4: HR 4i + 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernel_align import normalise, tent
from .sections import check_choice

BORDERS = ('valid', 'reflect', 'replicate', 'zeros')
BAND_BYTES = 32 * 2 ** 20  # size of the bands in which the operators process a picture, to bound their workspace


class Degradation:
    """Linear operator y = (x * k)↓s for images (B, C, H, W) and a kernel k (K, K).

    Args:
        scale: s, the integer down-scaling factor, at least 1.
        kernel_size: K, at least s, so that every HR pixel is covered by the window of some LR pixel.
        border: model of the scene beyond the frame.

            * ``valid``: nothing is assumed. x is a *canvas*: the frame plus a margin wide enough that the
              windows of all LR pixels lie inside it. An LR image of (h, w) needs a canvas of
              (s·h + K - s, s·w + K - s). :meth:`crop` cuts the frame (s·h, s·w) out of it.
            * ``reflect``, ``replicate``, ``zeros``: x is the frame itself, padded accordingly.

    Raises:
        ValueError: scale, kernel size or border is out of range.
    """

    def __init__(self, scale: int, kernel_size: int, border: str = 'valid') -> None:
        if scale < 1:
            raise ValueError(f'scale must be a positive integer, got {scale}')
        if kernel_size < scale:
            raise ValueError(f'kernel_size must be at least the scale {scale}, got {kernel_size}: '
                             'a smaller kernel leaves HR pixels that no LR pixel depends on')
        check_choice('border', border, BORDERS)
        self.scale = scale
        self.kernel_size = kernel_size
        self.border = border
        self.margin = ((kernel_size - scale) // 2, (kernel_size - scale + 1) // 2)  # before, after

    def hr_size(self, lr_size: tuple[int, int]) -> tuple[int, int]:
        """Size (H, W) of the x that :meth:`forward` maps to an LR image of ``lr_size``."""
        extra = sum(self.margin) if self.border == 'valid' else 0
        return lr_size[0] * self.scale + extra, lr_size[1] * self.scale + extra

    def lr_size(self, hr_size: tuple[int, int]) -> tuple[int, int]:
        """Size (h, w) of the LR image that :meth:`forward` computes from an x of ``hr_size``."""
        extra = sum(self.margin) if self.border == 'valid' else 0
        sizes = hr_size[0] - extra, hr_size[1] - extra
        if any(size <= 0 or size % self.scale for size in sizes):
            raise ValueError(f'an HR image of {hr_size[0]} x {hr_size[1]} does not fit scale {self.scale}: '
                             f'height and width must be a multiple of it{f" plus {extra}" if extra else ""}')
        return sizes[0] // self.scale, sizes[1] // self.scale

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """y = (x * k)↓s: (B, C, H, W) and (K, K) to (B, C, h, w); differentiable in both."""
        h, w = self.lr_size(x.shape[-2:])
        x, s = self.extend(x), self.scale
        bands = [self._correlate(x[..., top * s:(bottom - 1) * s + self.kernel_size, :], k, bottom - top, w)
                 for top, bottom in self._bands(x, h)]
        return bands[0] if len(bands) == 1 else torch.cat(bands, dim=-2)

    def adjoint(self, y: Tensor, k: Tensor) -> Tensor:
        """The transpose of :meth:`forward` at fixed k: (B, C, h, w) to (B, C, H, W)."""
        h, w = y.shape[-2:]
        s, reach = self.scale, (self.kernel_size - 1) // self.scale  # windows of this many rows above overlap a row too
        bands = []
        for top, bottom in self._bands(y, h, s * s):
            first = max(0, top - reach)
            end = None if bottom == h else (bottom - first) * s
            bands.append(self._spread(y[..., first:bottom, :], k)[..., (top - first) * s:end, :])
        return self._unpad(bands[0] if len(bands) == 1 else torch.cat(bands, dim=-2), (h * s, w * s))

    @staticmethod
    def _bands(x: Tensor, rows: int, times: int = 1) -> Iterator[tuple[int, int]]:
        """(top, bottom) of bands of the ``rows`` LR rows.

        Each covers about :data:`BAND_BYTES` of a picture ``times`` as large as x.
        """
        height = max(1, BAND_BYTES * rows // max(1, times * x.numel() * x.element_size()))
        for top in range(0, rows, height):
            yield top, min(top + height, rows)

    def _correlate(self, x: Tensor, k: Tensor, h: int, w: int) -> Tensor:
        """:meth:`forward` on a canvas."""
        batch, channels = x.shape[:2]
        # Space-to-depth first: a dense correlation with s² channels is much faster than a large strided one.
        s, taps = self.scale, math.ceil(self.kernel_size / self.scale)
        extra = taps * s - self.kernel_size
        k = F.pad(k, (0, extra, 0, extra))
        x = F.pad(x, (0, extra, 0, extra))
        phases = F.pixel_unshuffle(x.reshape(batch * channels, 1, *x.shape[-2:]), s)
        filters = F.pixel_unshuffle(k[None, None], s)
        return F.conv2d(phases, filters.to(x.dtype)).reshape(batch, channels, h, w)

    def _spread(self, y: Tensor, k: Tensor) -> Tensor:
        """:meth:`adjoint` onto a canvas."""
        batch, channels, h, w = y.shape
        s, taps = self.scale, math.ceil(self.kernel_size / self.scale)
        extra = taps * s - self.kernel_size
        filters = F.pixel_unshuffle(F.pad(k, (0, extra, 0, extra))[None, None], s).to(y.dtype)
        phases = F.conv_transpose2d(y.reshape(batch * channels, 1, h, w), filters)
        x = F.pixel_shuffle(phases, s)
        x = x[..., :x.shape[-2] - extra, :x.shape[-1] - extra]
        return x.reshape(batch, channels, *x.shape[-2:])

    def normal_operator(self, k: Tensor) -> Callable[[Tensor], Tensor]:
        """z ↦ A·Aᵀ·z on LR images (B, C, h, w), A = :meth:`forward` at fixed k.

        On a canvas the window of every LR pixel is complete, so A·Aᵀ is Toeplitz: the correlation of the zero-padded z
        with the kernel's autocorrelation at multiples of s, r[m] = Σ_u k[u] k[u + s·m]. At K = 24, s = 4 these are
        11 x 11 taps on LR pixels instead of two passes over the HR image. Other borders use the two passes.
        """
        if self.border != 'valid':
            return lambda z: self.forward(self.adjoint(z, k), k)
        reach = (self.kernel_size - 1) // self.scale
        spread = F.pad(k, (reach * self.scale,) * 4)[None, None]
        r = F.conv2d(spread, k[None, None], stride=self.scale)  # (1, 1, 2·reach + 1, 2·reach + 1)

        def apply(z: Tensor) -> Tensor:
            flat = z.reshape(-1, 1, *z.shape[-2:])
            return F.conv2d(flat, r.to(z), padding=reach).reshape(z.shape)
        return apply

    def windows(self, x: Tensor) -> Tensor:
        """The matrix U in y = U·vec(k), from x (B, C, H, W): (B·C·h·w, K²), one row per LR value."""
        self.lr_size(x.shape[-2:])
        x = self.extend(x)
        views = x.reshape(-1, *x.shape[-2:]).unfold(1, self.kernel_size, self.scale)
        views = views.unfold(2, self.kernel_size, self.scale)  # (B·C, h, w, K, K), nothing copied yet
        return views.reshape(-1, self.kernel_size ** 2)

    def crop(self, x: Tensor) -> Tensor:
        """The frame (s·h, s·w) of x: a canvas without its margin; with other borders x itself."""
        if self.border != 'valid':
            return x
        before, after = self.margin
        return x[..., before:x.shape[-2] - after, before:x.shape[-1] - after]

    def extend(self, x: Tensor) -> Tensor:
        """x padded with the border that the kernel needs; a canvas already has it and is returned unchanged."""
        before, after = self.margin
        if self.border == 'valid':
            return x
        if self.border == 'zeros':
            return F.pad(x, (before, after, before, after))
        rows, cols = (self._sources(size).to(x.device) for size in x.shape[-2:])
        return x.index_select(-2, rows).index_select(-1, cols)

    def _unpad(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Transpose of :meth:`extend`: every padded pixel is added to the one it was copied from."""
        before = self.margin[0]
        if self.border == 'valid':
            return x
        if self.border == 'zeros':
            return x[..., before:before + size[0], before:before + size[1]]
        for dim, length in zip((-2, -1), size, strict=True):
            shape = list(x.shape)
            shape[dim] = length
            x = x.new_zeros(shape).index_add(dim, self._sources(length).to(x.device), x)
        return x

    def _sources(self, size: int) -> Tensor:
        """Along one axis: the index in [0, size) from which each padded position is copied."""
        index = torch.arange(-self.margin[0], size + self.margin[1])
        if self.border == 'replicate' or size == 1:
            return index.clamp(0, size - 1)
        period = 2 * (size - 1)  # reflect without repeating the edge, repeatedly if necessary
        return (size - 1) - (index.remainder(period) - (size - 1)).abs()


def synthesise(hr: Tensor, k: Tensor, scale: int, border: str = 'zeros', noise: Tensor | None = None) -> Tensor:
    """LR pictures made as the paper's authors do: round((x * k)↓s) in 8 bits, with one strided ``F.conv2d``.

    The same map as :meth:`Degradation.forward`, but on 0 … 255 and with the authors' order of summation: exact
    ties are common with kernels such as a square of values 1/256, and another order rounds some of them differently.

    Args:
        hr: (B, C, H, W) uint8; H and W multiples of the scale.
        k: (K, K), sums to 1.
        border: ``reflect``, ``replicate``, or ``zeros`` (``F.conv2d``'s padding). Zero is black here, but mid-grey in
            :class:`Degradation`, which works in [-1, 1].
        noise: (B, C, H / s, W / s) in grey levels (0 … 255), added before rounding.

    Returns:
        (B, C, H / s, W / s) uint8.

    Raises:
        ValueError: not uint8, sizes that do not fit, or the border 'valid'.
    """
    if hr.dtype != torch.uint8 or border == 'valid':
        raise ValueError("synthesise takes uint8 images and a border other than 'valid', got "
                         f'{hr.dtype}, {border!r}')
    degradation = Degradation(scale, k.shape[-1], border)
    h, w = degradation.lr_size(hr.shape[-2:])
    x = degradation.extend(hr.float().reshape(-1, 1, *hr.shape[-2:]))
    y = F.conv2d(x, k.to(x)[None, None], stride=scale).reshape(*hr.shape[:2], h, w)
    y = y if noise is None else y + noise
    return y.round().clamp(0, 255).to(torch.uint8)


def upscale_bicubic(y: Tensor, scale: int) -> Tensor:
    """Bicubic upscaling (a = -0.5, half-pixel grid, weights renormalised at the edges) as in PIL and MATLAB.

    ``F.interpolate`` uses a = -0.75 by default, but PIL's a = -0.5 with ``antialias=True``, which does not widen the
    filter when upscaling.

    Args:
        y: (B, C, h, w), any range.

    Returns:
        (B, C, s·h, s·w), not clamped.
    """
    return F.interpolate(y, scale_factor=scale, mode='bicubic', align_corners=False, antialias=True)


def downscale_bicubic(x: Tensor, scale: int) -> Tensor:
    """Bicubic downscaling (a = -0.5, half-pixel grid, filter widened by the scale) as in PIL and MATLAB.

    Args:
        x: (B, C, H, W); if H or W is not a multiple of s, the filter is stretched slightly.

    Returns:
        (B, C, H // s, W // s), not clamped.
    """
    size = x.shape[-2] // scale, x.shape[-1] // scale
    return F.interpolate(x, size=size, mode='bicubic', align_corners=False, antialias=True)


def to_canvas(y: Tensor, degradation: Degradation) -> Tensor:
    """Bicubic upscaling of y to the size of the x that ``degradation`` maps to it; margins replicate the edge."""
    before, after = (math.ceil(m / degradation.scale) for m in degradation.margin)
    if degradation.border != 'valid':
        return upscale_bicubic(y, degradation.scale)
    wide = upscale_bicubic(F.pad(y, (before, after, before, after), mode='replicate'), degradation.scale)
    top = before * degradation.scale - degradation.margin[0]
    height, width = degradation.hr_size(y.shape[-2:])
    return wide[..., top:top + height, top:top + width]


def resample_kernel(k: Tensor, source: Degradation, target: Degradation) -> Tensor:
    """Resample a kernel (K, K) from the grid of ``source`` to that of ``target``; normalised to sum 1.

    Positions relative to the LR pixel's centre are preserved. Interpolation to a finer grid is bilinear; on a coarser
    grid each tap is the mean over its area.

    Raises:
        ValueError: the whole kernel lies outside the target's grid.
    """
    # Distance of tap j from the LR pixel's centre, in LR pixels: (j - margin - (s - 1) / 2) / s.
    taps = torch.arange(target.kernel_size, dtype=torch.float64)
    distance = (taps - target.margin[0] - (target.scale - 1) / 2) / target.scale
    position = distance * source.scale + source.margin[0] + (source.scale - 1) / 2
    half = source.scale / target.scale / 2  # half the width of a target tap, in source taps
    if half <= 0.5:
        weights = tent(position, source.kernel_size, 1.0)
    else:
        away = position[:, None] - torch.arange(source.kernel_size)
        weights = (away + half).clamp(-0.5, 0.5) - (away - half).clamp(-0.5, 0.5)
    return normalise(weights.to(k) @ k @ weights.T.to(k))
