"""The forward model for blur that varies over the picture: one kernel per region, each fading into its neighbours'.

y = Σ_r W_r · (x * k_r)↓s, where W_r are windows on the LR grid that sum to 1 at every pixel (Nagy & O'Leary 1998;
"efficient filter flow", Hirsch et al. 2010). Each W_r is zero outside its region and the band it shares with its
neighbours, so only that part is computed: forward and adjoint cost little more than with one kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .degradation import Degradation

OVERLAP = 0.25  # of a region's side: wide enough to hide a seam, narrow enough for blur that changes abruptly
SMALLEST = 32  # LR pixels: minimum side of a region with a kernel of its own
AUTO = 'auto'
AUTO_SIDE, AUTO_MOST = 64, 3  # minimum side of its regions in LR pixels; maximum number of rows and columns


def read_grid(regions: str) -> tuple[int, int] | None:
    """``RxC`` as (R, C); None for ``auto``, which depends on the picture.

    Raises:
        ValueError: it is neither.
    """
    if regions == AUTO:
        return None
    match = re.fullmatch(r'([1-9]\d?)x([1-9]\d?)', regions)
    if match is None:
        raise ValueError(f'regions must be ROWSxCOLUMNS, such as 1x2, or {AUTO}, got {regions!r}')
    return int(match[1]), int(match[2])


def choose_grid(regions: str, size: tuple[int, int]) -> tuple[int, int]:
    """The regions (R, C) of a picture of ``size`` (h, w).

    ``auto``: as many as fit with at least :data:`AUTO_SIDE` LR pixels a side, up to 3 x 3; below twice that, one. y
    decides whether each gets a kernel of its own (:func:`~.regions.takes_own`).

    Raises:
        ValueError: the regions would be too small.
    """
    grid = read_grid(regions)
    if grid is None:
        return tuple(min(AUTO_MOST, max(1, length // AUTO_SIDE)) for length in size)
    sides = [length // count for length, count in zip(size, grid, strict=True)]
    if any(count > 1 and side < SMALLEST for side, count in zip(sides, grid, strict=True)):
        raise ValueError(f'regions: {regions} of an image of {size[1]} x {size[0]} pixels (width x height): each must '
                         f'have {SMALLEST} x {SMALLEST} at least, choose fewer')
    return grid


class RegionalDegradation(Degradation):
    """Linear operator y = Σ_r W_r · (x * k_r)↓s for images (B, C, H, W) and kernels (R, C, K, K), one per region.

    With equal kernels it equals :class:`Degradation`, whose attributes it has.

    Args:
        degradation: scale, kernel size and border.
        lr_size: (h, w) of y.
        grid: (R, C) regions, of equal size up to rounding.
        overlap: width of the band in which one region fades into the next, as a share of a region's side, 0 to 1.

    Attributes:
        everywhere: the forward model with one kernel.
        fades: windows along the rows (R, h) and along the columns (C, w); W_r is the product of one of each.

    Raises:
        ValueError: there are more regions than pixels, or the overlap is not such a share.
    """

    def __init__(self, degradation: Degradation, lr_size: tuple[int, int], grid: tuple[int, int],
                 overlap: float = OVERLAP) -> None:
        super().__init__(degradation.scale, degradation.kernel_size, degradation.border)
        self.grid = grid
        self.everywhere = degradation
        self.fades = [fades(length, count, overlap) for length, count in zip(lr_size, grid, strict=True)]
        self._inside = Degradation(self.scale, self.kernel_size, 'valid')

    def regions(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, weights) of each region, row by row: the LR pixels that it contributes to, and W_r there."""
        spans = [[_support(window) for window in windows] for windows in self.fades]
        for rows, down in zip(spans[0], self.fades[0], strict=True):
            for cols, across in zip(spans[1], self.fades[1], strict=True):
                yield rows, cols, down[rows, None] * across[cols]

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """y: (B, C, H, W) and (R, C, K, K) to (B, C, h, w)."""
        y = x.new_zeros(*x.shape[:2], *self.lr_size(x.shape[-2:]))
        x = self.extend(x)
        for (rows, cols, weights), kernel in zip(self.regions(), k.flatten(0, 1), strict=True):
            y[..., rows, cols] += weights.to(y) * self._inside.forward(self._seen(x, rows, cols), kernel)
        return y

    def adjoint(self, y: Tensor, k: Tensor) -> Tensor:
        """The transpose of :meth:`forward` at fixed k: (B, C, h, w) to (B, C, H, W)."""
        size = self._inside.hr_size(y.shape[-2:])
        x = y.new_zeros(*y.shape[:2], *size)
        for (rows, cols, weights), kernel in zip(self.regions(), k.flatten(0, 1), strict=True):
            self._seen(x, rows, cols).add_(self._inside.adjoint(weights.to(y) * y[..., rows, cols], kernel))
        return self._unpad(x, (y.shape[-2] * self.scale, y.shape[-1] * self.scale))

    def normal_operator(self, k: Tensor) -> Callable[[Tensor], Tensor]:
        """z ↦ A·Aᵀ·z, A = :meth:`forward` at fixed k. Uses both passes: it is not Toeplitz where kernels vary."""
        return lambda z: self.forward(self.adjoint(z, k), k)

    def _seen(self, x: Tensor, rows: slice, cols: slice) -> Tensor:
        """The part of an extended x that the LR pixels of these rows and columns see, as a view."""
        s, extra = self.scale, self.kernel_size - self.scale
        return x[..., rows.start * s:rows.stop * s + extra, cols.start * s:cols.stop * s + extra]


def fades(length: int, count: int, overlap: float) -> Tensor:
    """(count, length) windows of ``count`` equal parts of a line, which sum to 1 at every pixel; float64.

    Between two parts, one falls and the other rises linearly over ``overlap`` times a part's length.

    Raises:
        ValueError: there are more parts than pixels, or the overlap is not in [0, 1].
    """
    if not 0 <= overlap <= 1:
        raise ValueError(f'the overlap of regions must be a share between 0 and 1, got {overlap}')
    if not 1 <= count <= length:
        raise ValueError(f'{count} regions do not fit a picture of {length} pixels')
    part = length / count
    at = torch.arange(length, dtype=torch.float64) + 0.5
    inner = [((at - i * part) / max(overlap * part, 1e-9) + 0.5).clamp(0, 1) for i in range(1, count)]
    risen = torch.stack([torch.ones_like(at), *inner, torch.zeros_like(at)])
    return risen[:-1] - risen[1:]


def _support(window: Tensor) -> slice:
    """The pixels from a window's first positive value to its last."""
    positive = torch.nonzero(window > 0)
    return slice(int(positive[0]), int(positive[-1]) + 1)
