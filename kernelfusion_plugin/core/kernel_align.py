"""Where a kernel sits on its grid: normalise, centre of mass, shift, centre, resize.

A kernel is a (K, K) tensor, drawn as it meets the image in cross-correlation: rows go down (y), columns to
the right (x). Its centre is (K - 1) / 2 on either axis: a pixel for odd K, a corner of four for even K.
Everything here keeps dtype and device and is differentiable in the kernel (:func:`centre_by_pixels` through
its values only).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_square(k: Tensor) -> int:
    """K of a (K, K) kernel; ValueError for any other shape."""
    if k.ndim != 2 or k.shape[0] != k.shape[1] or k.shape[0] < 1:
        raise ValueError(f'a kernel must be square, (K, K), got the shape {tuple(k.shape)}')
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
    """(y, x) of the centre of mass in pixels, a tensor of two: sum of k·(y, x) over sum of k.

    The kernel need not be normalised. Differentiable: it is what the centre-of-mass loss of the paper weighs.
    """
    size = check_square(k)
    at = torch.arange(size, dtype=k.dtype, device=k.device)
    return torch.stack([k.sum(1) @ at, k.sum(0) @ at]) / k.sum()


def shift(k: Tensor, by: tuple[float, float]) -> Tensor:
    """k moved by (dy, dx) pixels, bilinear; what is beyond the grid is zero, what leaves it is lost.

    out[i, j] = k(i - dy, j - dx). The centre of mass moves by exactly (dy, dx) where nothing leaves the grid.
    """
    size = check_square(k)
    at = torch.arange(size, dtype=torch.float64)
    rows, cols = (tent(at - float(d), size, 1.0).to(k) for d in by)
    return rows @ k @ cols.T


def centre(k: Tensor) -> Tensor:
    """k shifted (sub-pixel, bilinear) so that its centre of mass is (K - 1) / 2, then normalised.

    Mass that the shift pushes off the grid would leave the centre a little to one side; the shift is found
    from what stays, in a few rounds.
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
    """k moved by whole pixels so that its centre of mass is within half a pixel of (K - 1) / 2.

    Zero filled, not blurred, not normalised: what leaves the grid is lost. A centre of mass exactly half a
    pixel off stays where it is.
    """
    size = check_square(k)
    offset = (size - 1) / 2 - centre_of_mass(k.detach().double()).cpu()
    dy, dx = (int(torch.sign(d) * torch.ceil(d.abs() - 0.5 - 1e-6)) for d in offset)
    return F.pad(k, (dx, -dx, dy, -dy))  # a negative pad cuts


def resize(k: Tensor, size: int, factor: float | None = None) -> Tensor:
    """The kernel on a (size, size) grid whose pixels are ``factor`` times finer, normalised.

    Half-pixel aligned: centre stays on centre, a point p from the old centre lands at factor · p from the new.
    Enlarging interpolates linearly; shrinking widens the tent by 1 / factor so that no pixel is skipped.
    Beyond the old grid the kernel is zero.

    Args:
        k: (K, K).
        size: side of the new grid.
        factor: new pixels per old pixel. Default size / K, that is the same extent on a new grid: what carries a
            kernel from scale s' (K' taps) to scale s when size / K' = s / s'. ``factor=1`` pads or crops.
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
    """Weights (len(at), size) of the samples 0 … size - 1 at positions ``at``: a tent of half-width ``width``."""
    distance = at[:, None] - torch.arange(size, dtype=torch.float64)
    return (1 - distance.abs() / width).clamp_min(0) / width
