"""JPEG's colour space (JFIF): luma and two colour differences, ITU-R BT.601 in full range."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B


def to_ycbcr(x: Tensor) -> Tensor:
    """RGB (..., 3, H, W) in [-1, 1] to Y, Cb and Cr in [-1, 1]: Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402."""
    red, green, blue = x.unbind(-3)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return torch.stack([luma, (blue - luma) / 1.772, (red - luma) / 1.402], -3)


def to_rgb(x: Tensor) -> Tensor:
    """The inverse of :func:`to_ycbcr`."""
    luma, cb, cr = x.unbind(-3)
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    return torch.stack([red, (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue], -3)
