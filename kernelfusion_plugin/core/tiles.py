"""A net on a large picture, tile by tile, in bounded memory.

:func:`tiled` gives the same values as one pass over the whole picture if the net's reach is finite; if it is not
(attention, pooling), :func:`blended` fades overlapping tiles into one another. :class:`Tiles` shrinks tiles when memory
runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .memory import is_out_of_memory

log = logging.getLogger(__name__)

SIDES = (1024, 512, 256, 128, 64)  # of tiles, best first


@dataclass
class Tiles:
    """How pictures of any size go through networks; the priors of a run share one instance.

    Attributes:
        side: of the tiles, in pixels; 0: no tiles. It is halved for good when memory runs out.
        recompute: recompute what a gradient needs instead of keeping it, and tile pictures with a gradient too.
    """

    side: int = SIDES[0]
    recompute: bool = False

    def run(self, function: Callable[[Tensor], Tensor], x: Tensor, net: nn.Module) -> Tensor:
        """``function(x)``, (B, C, H, W) to the same shape, built on ``net``; in one piece if ``net`` has no ``reach``.

        Raises:
            OutOfMemoryError, RuntimeError: PyTorch's own, if even the smallest tiles do not fit.
        """
        gradient = torch.is_grad_enabled() and x.requires_grad
        margin = self.margin(net)
        if margin is None or (gradient and not self.recompute):
            return function(x)
        if gradient:
            function = recomputed(function)
        while True:
            try:
                return tiled(function, x, self.side, net.reach, getattr(net, 'multiple', 1))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.side <= SIDES[-1]:
                    raise
                self.side = max(SIDES[-1], min(self.side, *x.shape[-2:]) // 2)
            log.warning(f'Out of memory: it goes on in tiles of {self.side} x {self.side} pixels')

    def margin(self, net: nn.Module) -> int | None:
        """Maximum number of pixels around a tile that go through ``net`` with it; None: ``net`` is not run in tiles."""
        reach = getattr(net, 'reach', None)
        return reach + getattr(net, 'multiple', 1) if self.side and reach is not None else None


def recomputed(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``function`` whose gradient keeps nothing but x and computes ``function`` a second time."""
    return partial(checkpoint, function, use_reentrant=False)


def tiled(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, halo: int, multiple: int = 1,
          scale: int = 1) -> Tensor:
    """``function(x)`` computed on tiles of about ``tile`` pixels square, each with ``halo`` pixels around it.

    Equal to ``function(x)`` up to rounding if an output pixel depends on inputs at most ``halo`` away and the function
    commutes with shifts by ``multiple`` (the stride of its coarsest level).

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


def placements(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of evenly placed tiles of side ``tile`` that cover ``length`` and overlap by at least ``overlap``.

    Raises:
        ValueError: the overlap is negative or not below the tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f'the overlap of tiles must be at least 0 and below the tile {tile}, got {overlap}')
    count = max(1, -(-(length - overlap) // (tile - overlap)))
    return [0] if count == 1 else [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blended(size: tuple[int, int], tile: int, overlap: int) -> Iterator[tuple[slice, slice, Callable[[int], Tensor]]]:
    """Overlapping tiles of a picture of ``size`` with weights that sum to 1 at every pixel.

    Yields:
        Rows, columns, and a function that gives the tile's weights (s·h, s·w) on a grid s times as fine: constant
        inside, falling linearly over the overlaps.
    """
    axes = [_axis(length, min(tile, length), overlap) for length in size]
    for rows, vertical in axes[0]:
        for cols, horizontal in axes[1]:
            yield rows, cols, lambda s, v=vertical, h=horizontal: v(s)[:, None] * h(s)


def _axis(length: int, tile: int, overlap: int) -> list[tuple[slice, Callable[[int], Tensor]]]:
    """The tiles along one axis, each with a function that gives its share of the weight at fineness s."""
    starts = placements(length, tile, min(overlap, tile - 1))

    def share(start: int, s: int) -> Tensor:
        at = (torch.arange(length * s, dtype=torch.float64) + 0.5) / s
        heights = []
        for begin in starts:
            left = (at - begin) / overlap if begin > 0 and overlap else torch.full_like(at, torch.inf)
            right = ((begin + tile - at) / overlap if begin + tile < length and overlap
                     else torch.full_like(at, torch.inf))
            inside = (at > begin) & (at < begin + tile)
            heights.append(torch.minimum(left, right).clamp(0, 1) * inside)
        part = heights[starts.index(start)] / sum(heights)
        return part[start * s:(start + tile) * s]

    return [(slice(start, start + tile), lambda s, start=start: share(start, s)) for start in starts]
