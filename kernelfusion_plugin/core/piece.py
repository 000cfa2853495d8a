"""The piece of y that the kernel is found on: as informative as possible, and away from a black frame."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from .degradation import Degradation
from .em_config import LEAST_PIECE, EmConfig
from .em_state import EmProblem
from .frame import Frame
from .overexposure import away_from

UNLIT = 6  # LR pixels: how far lights that are brighter than white are taken to reach


def unsure_rims(y: Tensor, frame: Frame | None, config: EmConfig) -> tuple[int, int, int, int]:
    """LR pixels at y's top, bottom, left and right that the kernel is not found on: ``em.rim``, or the black frame's.

    Data sets continue the picture beyond its frame, some of them with black (``F.conv2d``'s padding). Those edges would
    outweigh a small picture's own. A photograph has no such frame and keeps all its pixels, except at dark sides.

    Raises:
        ValueError: ``em.rim`` leaves too little of y.
    """
    if config.rim is None:
        return frame.rims if frame else (0, 0, 0, 0)
    check_rim(tuple(y.shape[-2:]), config)
    return (config.rim,) * 4


def check_rim(size: tuple[int, int], config: EmConfig) -> None:
    """Refuse an ``em.rim`` that leaves too little of y, of ``size`` (h, w), to find a kernel on."""
    if not config.rim:
        return
    left = [n - 2 * config.rim for n in size]
    if min(left) < LEAST_PIECE:
        raise ValueError(f'em.rim = {config.rim} leaves {max(left[1], 0)} x {max(left[0], 0)} pixels of y, '
                         f'{size[1]} x {size[0]}: at least {LEAST_PIECE} x {LEAST_PIECE} are needed')


def informative_piece(y: Tensor, side: int, rims: tuple[int, int, int, int] = (0, 0, 0, 0),
                      white: float | None = None) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the piece of at most ``side`` pixels square with the largest gradient energy.

    It keeps ``rims`` pixels away from y's top, bottom, left and right. Where y is overexposed, that is from the level
    ``white`` on, the energy around is that of lights and does not count.
    """
    top, bottom, left, right = rims
    y = y[..., top:y.shape[-2] - bottom, left:y.shape[-1] - right]
    height, width = ((min(side, n) if side else n) for n in y.shape[-2:])
    grey = y.mean(1, keepdim=True)
    energy = F.pad(grey.diff(dim=-1) ** 2, (0, 1)) + F.pad(grey.diff(dim=-2) ** 2, (0, 0, 0, 1))
    if white is not None:
        energy = energy * away_from(y >= white, UNLIT)
    energy = energy[0, 0].cpu().double()  # running sums on a GPU are not the same every time
    mass = F.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))  # integral image
    sums = mass[height:, width:] - mass[:-height, width:] - mass[height:, :-width] + mass[:-height, :-width]
    best = int(sums.argmax())
    return top + best // sums.shape[1], left + best % sums.shape[1], height, width


def cut_piece(y: Tensor, side: int, rims: tuple[int, int, int, int] = (0, 0, 0, 0),
              white: float | None = None) -> tuple[Tensor, tuple[int, int]]:
    """:func:`informative_piece` cut out of y (a view), and the LR pixel (top, left) at which it begins."""
    top, left, height, width = informative_piece(y, side, rims, white)
    return y[..., top:top + height, left:left + width], (top, left)


def on_piece(problem: EmProblem, piece: Tensor) -> EmProblem:
    """The problem for a ``piece`` of y alone: overexposed only if something of it lies away from what was cut off.

    Else nothing could be left out, and lights that are brighter than white would explain too much.
    """
    white = problem.white
    if white is not None and bool(away_from(piece >= white, 1).all()):
        white = None
    return replace(problem, y=piece, white=white)


def paste(x: Tensor, grid: Degradation, canvas: Tensor, degradation: Degradation, at: tuple[int, int]) -> Tensor:
    """A copy of ``canvas`` with an estimate x of the piece of y put in and enlarged, for those who watch.

    Args:
        x: the estimate, on the canvas of ``grid``.
        canvas: a picture of all of y, on the canvas of ``degradation``, the forward model at the full scale.
        at: the LR pixel (top, left) at which the piece begins.
    """
    inside = grid.crop(x)
    s = degradation.scale
    size = [n // grid.scale * s for n in inside.shape[-2:]]
    before = degradation.margin[0] if degradation.border == 'valid' else 0
    top, left = (n * s + before for n in at)
    canvas = canvas.clone()
    canvas[..., top:top + size[0], left:left + size[1]] = F.interpolate(inside, size=size, mode='bicubic')
    return canvas
