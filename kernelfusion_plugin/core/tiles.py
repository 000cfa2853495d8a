"""A net of finite reach on a large picture, tile by tile: the same values, bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, halo: int, multiple: int = 1,
          scale: int = 1) -> Tensor:
    """``function(x)`` computed on tiles of about ``tile`` pixels square, each with ``halo`` pixels around it.

    Equal to ``function(x)``, but for rounding, if an output pixel depends on inputs no farther than ``halo`` away and
    the function treats all places alike, up to shifts by ``multiple`` (the stride of its coarsest level).

    Args:
        function: (B, C, h, w) to (B, D, s·h, s·w).
        x: (B, C, H, W).
        scale: s.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x)
    step, halo = (-(-n // multiple) * multiple for n in (tile, halo))
    rows = []
    for top in range(0, height, step):
        row = []
        for left in range(0, width, step):
            upper, outer = max(0, top - halo), max(0, left - halo)
            piece = function(x[..., upper:top + step + halo, outer:left + step + halo])
            above, before = scale * (top - upper), scale * (left - outer)
            row.append(piece[..., above:above + scale * step, before:before + scale * step])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)
