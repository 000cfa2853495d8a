"""How noisy a picture is, estimated from itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .jpeg import jpeg_error

BLOCK = 8  # side of the blocks, in pixels of the high-pass
JPEG_COLOUR = 2.0  # JPEG's error of Cb and Cr in units of luma's: they are stored more coarsely, at half the resolution
DETAIL = 0.012  # what clean 8-bit pictures measure, rounding and fine detail: 0.006 to 0.014 on six of them


class Sigma(NamedTuple):
    """Standard deviation of the noise that is assumed in y (range [-1, 1]): of luma, and of colour (Cb, Cr).

    None: colour has the same, and the two need not be separated.
    """

    luma: float
    colour: float | None = None


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what there is in y besides (x * k)↓s, in units of y (range [-1, 1]).

    Attributes:
        white: of white noise, :func:`white_noise`.
        jpeg: of JPEG's error, :func:`~.jpeg.jpeg_error`.
    """

    white: float = 0.0
    jpeg: float = 0.0

    def level(self) -> float:
        """The larger of the two, as each shows in the measure of the other."""
        return max(self.white, self.jpeg)

    def times(self, white: float, jpeg: float) -> Noise:
        """The two multiplied by these factors."""
        return Noise(white * self.white, jpeg * self.jpeg)

    def added_to(self, sigma: float) -> Sigma:
        """``sigma`` and :meth:`level` together, as independent noise: the root of the sum of squares."""
        luma = math.hypot(sigma, self.level())
        return Sigma(luma, math.hypot(sigma, max(self.white, JPEG_COLOUR * self.jpeg)) if self.jpeg else None)


CLEAN = Noise()


def estimate_noise(y: Tensor) -> Noise:
    """What there is in y (1, 3, h, w), [-1, 1], besides (x * k)↓s, measured in y."""
    return Noise(white_noise(y), jpeg_error(y))


def white_noise(y: Tensor) -> float:
    """Standard deviation of white noise in y (1, C, h, w), in units of y (range [-1, 1]); 0 for a clean picture.

    The diagonal Haar detail of white noise of deviation sigma has deviation sigma, whatever the picture's slopes. It is
    measured in blocks, of which the quietest tenth counts: flat parts of the picture, if it has any. What clean
    pictures have there too is subtracted. Blocks at the ends of the range, where noise is clipped, are left out.
    """
    a, b, c, d = (y[..., i:y.shape[-2] // 2 * 2:2, j:y.shape[-1] // 2 * 2:2] for i in (0, 1) for j in (0, 1))
    detail = (a - b - c + d) / 2
    size = min(BLOCK, *detail.shape[-2:])
    power = F.avg_pool2d(detail.square(), size).flatten()
    level = F.avg_pool2d((a + b + c + d) / 4, size).flatten()
    power = power[level.abs() < 0.95] if bool((level.abs() < 0.95).any()) else power
    # A block's power scatters by √(2 / n) about sigma²; the lowest tenth lies 1.28 of that below.
    low = torch.quantile(power[:1_000_000].double(), 0.1) / (1 - 1.28 * (2 / size ** 2) ** 0.5)
    return float((low - DETAIL ** 2).clamp_min(0).sqrt())
