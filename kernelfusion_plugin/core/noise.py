"""How noisy a picture is, from itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .jpeg import jpeg_error

BLOCK = 8  # side of the blocks, in pixels of the high-pass
FALL = 8  # by which the power of detail rises from one scale to the next in pictures, 4 (sharp ones) or more
DETAIL = 0.006  # deviation that clean 8-bit pictures measure in spite of that, rounding and fine detail


def estimate_noise(y: Tensor) -> float:
    """Standard deviation of what there is in y (1, 3, h, w) beside (x * k)↓s: white noise, or what JPEG has left.

    In units of y (range [-1, 1]). The larger of the two, as each shows in the measure of the other.
    """
    return max(white_noise(y), jpeg_error(y))


def white_noise(y: Tensor) -> float:
    """Standard deviation of white noise in y (1, C, h, w), in units of y (range [-1, 1]); 0 for a clean picture.

    The diagonal Haar detail of white noise of deviation sigma has deviation sigma at each scale, whatever the picture's
    slopes; a picture's own detail has the more power, the coarser it is. From two scales follows what is noise. It is
    measured in blocks, and the quietest tenth counts. Blocks at the ends of the range, where noise is clipped, are left
    out.
    """
    detail, coarse = _haar(y)
    coarser, _ = _haar(coarse)
    size = min(BLOCK, *detail.shape[-2:]) // 2 * 2
    if not size:
        return 0.0
    fine_power, power = (F.avg_pool2d(d.square(), n) for d, n in ((detail, size), (coarser, size // 2)))
    level = F.avg_pool2d(coarse / 2, size)
    power = power[..., :level.shape[-2], :level.shape[-1]].flatten()
    fine_power, level = fine_power.flatten(), level.flatten()
    inside = level.abs() < 0.95
    if bool(inside.any()):
        fine_power, power = fine_power[inside], power[inside]
    # A block's power scatters by √(2 / n) about sigma²; the lowest tenth lies 1.28 of that below.
    low = _quantile(fine_power, 0.1) / (1 - 1.28 * (2 / size ** 2) ** 0.5)
    quiet = power[fine_power <= _quantile(fine_power, 0.2)].double().mean()
    return float(((FALL * low - quiet) / (FALL - 1) - DETAIL ** 2).clamp_min(0).sqrt())


def _haar(y: Tensor) -> tuple[Tensor, Tensor]:
    """(diagonal detail, sum) of each 2 x 2 pixels, orthonormal: both (…, h // 2, w // 2)."""
    a, b, c, d = (y[..., i:y.shape[-2] // 2 * 2:2, j:y.shape[-1] // 2 * 2:2] for i in (0, 1) for j in (0, 1))
    return (a - b - c + d) / 2, (a + b + c + d) / 2


def _quantile(values: Tensor, share: float) -> Tensor:
    """The ``share`` quantile, of at most a million of the values (torch takes no more than 16)."""
    return torch.quantile(values[:1_000_000].double(), share)
