"""Position of a kernel on its grid: normalise, centre of mass, shift, centre, resize.

A kernel is a (K, K) tensor, oriented for cross-correlation with the image: rows go down (y), columns to the right (x).
Its centre is (K - 1) / 2 on both axes: a pixel for odd K, the corner shared by four pixels for even K. All functions
preserve dtype and device and are differentiable in the kernel (:func:`centre` and :func:`centre_by_pixels` at a fixed
shift).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_square(k: Tensor) -> int:
    """K of a (K, K) kernel; raises ValueError for any other shape."""
    if k.ndim != 2 or k.shape[0] != k.shape[1] or k.shape[0] < 1:
        raise ValueError(f'a kernel must be square, (K, K), got shape {tuple(k.shape)}')
    return k.shape[0]


def normalise(k: Tensor) -> Tensor:
    """k / sum(k).

    Raises:
        ValueError: the sum is not finite and positive.
    """
    total = k.sum()
    if not (torch.isfinite(total) and total > 0):
        raise ValueError(f'a kernel must have a finite, positive sum, got {float(total):g}')
    return k / total


def centre_of_mass(k: Tensor) -> Tensor:
    """Centre of mass (y, x) in pixels, a tensor of shape (2,): Σ k·(y, x) / Σ k. Differentiable.

    The kernel need not be normalised.
    """
    size = check_square(k)
    at = torch.arange(size, dtype=k.dtype, device=k.device)
    return torch.stack([k.sum(1) @ at, k.sum(0) @ at]) / k.sum()


def shift(k: Tensor, by: tuple[float, float]) -> Tensor:
    """k shifted by (dy, dx) pixels with bilinear interpolation: out[i, j] = k(i - dy, j - dx).

    k is zero outside its grid, and mass that leaves it is lost. If none does, the centre of mass moves by exactly
    (dy, dx).
    """
    size = check_square(k)
    at = torch.arange(size, dtype=torch.float64)
    rows, cols = (tent(at - float(d), size, 1.0).to(k) for d in by)
    return rows @ k @ cols.T


def centre(k: Tensor) -> Tensor:
    """k shifted (sub-pixel, bilinear) so that its centre of mass is (K - 1) / 2, then normalised.

    Since mass shifted off the grid moves the centre of mass, the shift is found iteratively from the mass that stays.
    """
    size = check_square(k)
    middle = (size - 1) / 2
    by = torch.zeros(2, dtype=torch.float64)
    moved = k
    for _ in range(8):
        error = middle - centre_of_mass(moved.detach().double()).cpu()
        if error.abs().max() < 1e-5:
            break
        by = by + error
        moved = shift(k, (float(by[0]), float(by[1])))
    return normalise(moved)


def centre_by_pixels(k: Tensor) -> Tensor:
    """k shifted by whole pixels so that its centre of mass is within half a pixel of (K - 1) / 2.

    Zeros fill the gap, mass that leaves the grid is lost, and the result is not normalised. A centre of mass exactly
    half a pixel off is left alone.
    """
    size = check_square(k)
    offset = (size - 1) / 2 - centre_of_mass(k.detach().double()).cpu()
    dy, dx = (int(torch.sign(d) * torch.ceil(d.abs() - 0.5 - 1e-6)) for d in offset)
    return F.pad(k, (dx, -dx, dy, -dy))  # negative padding crops


def resize(k: Tensor, size: int, factor: float | None = None) -> Tensor:
    """Resample the kernel on a (size, size) grid whose pixels are ``factor`` times finer; normalised.

    The centre stays at the centre, and a point at p from the old centre moves to factor · p from the new one.
    Enlarging interpolates linearly; shrinking widens the tent filter by 1 / factor so that no pixel is skipped.
    The kernel is zero outside the old grid.

    Args:
        k: (K, K).
        size: side of the new grid.
        factor: new pixels per old pixel. Default size / K, which preserves the extent: it converts a kernel from scale
            s' (K' taps) to scale s if size / K' = s / s'. ``factor=1`` pads or crops.
    """
    old = check_square(k)
    if size < 1:
        raise ValueError(f'a kernel needs a size of at least 1, got {size}')
    factor = size / old if factor is None else float(factor)
    if not factor > 0:
        raise ValueError(f'the factor of a kernel resize must be positive, got {factor}')
    at = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / factor + (old - 1) / 2
    weights = tent(at, old, max(1.0, 1 / factor)).to(k)
    return normalise(weights @ k @ weights.T)


def tent(at: Tensor, size: int, width: float) -> Tensor:
    """Weights (len(at), size) of samples 0 … size - 1 at positions ``at``: a tent filter of half-width ``width``."""
    distance = at[:, None] - torch.arange(size, dtype=torch.float64)
    return (1 - distance.abs() / width).clamp_min(0) / width
