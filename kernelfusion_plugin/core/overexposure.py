"""Overexposure: what is brighter than white is stored as white.

A lamp may be ten times as bright as white paper. Blurred, it leaves a streak with a flat top, which no picture within
the range explains under any kernel; and as its edges are the strongest of all, a few lamps decide what kernel is found.
So, where y is overexposed:

* The M step leaves out the LR pixels that may have seen such a light (:func:`away_from`).
* What was cut off is only a lower bound: it counts where the estimate lies below it.
* x may be brighter than white. The prior, which knows pictures in [-1, 1], sees x cut off; the rest is added again.
* The final pass starts from what Richardson-Lucy's iteration makes of the lights; a data step alone would put ripples
  around them, as it may go below black. If y is explained as well without lights, white is just white, and the final
  pass is as for any picture.

Whyte, Sivic & Zisserman (2014, *Deblurring shaken and partially saturated images*) separate lights and picture in a
similar way, for a known kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .degradation import Degradation

WHITE = 1 - 1 / 255  # half a level of 8 bits below white, in a range of 2
STEEP = 0.4  # range 2: how far below white y is beside what was cut off
STEEP_SHARE = 0.1  # of white's edges that are as steep: photographs whose white is white have up to 0.04
FEWEST = 4  # of white's edges, in each channel: a single pixel has four
LEAST_LEFT = 64 ** 2  # LR pixels that the M step needs; but a quarter of y at least, and three quarters always do
ROUNDS = 40  # of Richardson-Lucy's iteration
NEAR = 3  # LR pixels from what was cut off where lights brighter than white show
UNEXPLAINED = 0.01  # of white's light, root mean square there: more is left without such lights (docs/tried.md)
DARKEST = 1e-3  # of white's light: what its estimates start from at least; from 0 they would not get away


def white_level(y: Tensor, jpeg: float = 0.0) -> float | None:
    """The value from which on those of y (1, C, h, w), [-1, 1], were cut off; None if y is not overexposed.

    Beside a surface that is just white, blur makes y fall gently; where light was cut off, it may fall at any rate. A
    picture that is not blurred and has white areas with hard edges passes for overexposed.

    Args:
        jpeg: JPEG's error in y, which leaves what was cut off uneven.
    """
    level = WHITE - 2 * jpeg
    steep = edges = 0
    for rows in (y, y.flip(-1), y.mT, y.mT.flip(-1)):
        white = rows >= level
        beside = rows[..., :-1][white[..., 1:] & ~white[..., :-1]]
        steep, edges = steep + int((beside < 1 - STEEP).sum()), edges + len(beside)
    return level if edges >= FEWEST and steep >= STEEP_SHARE * edges else None


def away_from(cut: Tensor, reach: int) -> Tensor:
    """1 for LR pixels more than ``reach`` away from those that were ``cut`` off (B, C, h, w), else 0: (B, 1, h, w).

    Where too little of y would be left, the reach is shorter, down to none: all pixels are 1 then.
    """
    pixels = cut[0, 0].numel()
    enough = min(0.75 * pixels, max(0.25 * pixels, LEAST_LEFT)) / pixels
    for distance in range(reach, 0, -1):
        left = 1 - near_to(cut, distance)
        if left.mean() >= enough:
            return left
    return torch.ones_like(cut[:, :1], dtype=torch.float32)


def near_to(cut: Tensor, distance: int) -> Tensor:
    """1 for LR pixels within ``distance``, in both directions, of those that were ``cut`` off, else 0: (B, 1, h, w)."""
    return F.max_pool2d(cut.any(1, keepdim=True).float(), 2 * distance + 1, 1, distance)


def reach_of(kernel_size: int, scale: int) -> int:
    """LR pixels: the windows of two that are this far apart, or further, share no pixel; :func:`away_from`'s reach."""
    return math.ceil(kernel_size / scale)


@dataclass(frozen=True, eq=False)
class Highlights:
    """The values of y that were cut off, and where x may be brighter than white because of them.

    Attributes:
        cut: (B, C, h, w) bool; None: y is not overexposed, and nothing is split or left out.
        room: (B, C, H, W) bool, on the degradation's canvas: what the windows of those values cover.
    """

    cut: Tensor | None = None
    room: Tensor | None = None

    @classmethod
    def of(cls, y: Tensor, white: float | None, degradation: Degradation) -> Highlights:
        """``white``: y's :func:`white_level`."""
        if white is None:
            return cls()
        cut, size = y >= white, degradation.kernel_size
        everywhere = Degradation(degradation.scale, size, degradation.border)
        return cls(cut, everywhere.adjoint(cut.to(y), y.new_ones(size, size)) > 0.5)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """x as the sum of what a picture can show, and of what is brighter than white."""
        if self.room is None:
            return x, 0.0
        beyond = torch.where(self.room, x - 1, 0).clamp_min(0)
        return x - beyond, beyond

    def counting(self, y: Tensor, seen: Tensor) -> Tensor | None:
        """Which pixels of y say something about an estimate that is ``seen`` as (B, C, h, w): bool (B, 1, h, w).

        All but those of which a channel was cut off, and the estimate exceeds it there; None: all.
        """
        return None if self.cut is None else ~(self.cut & (seen >= y)).any(1, keepdim=True)

    def lit(self, x: Tensor, y: Tensor, kernel: Tensor, degradation: Degradation, noise: float = 0.0) -> Tensor | None:
        """x with its highlights by Richardson-Lucy's iteration, from x on; None if x need not be brighter than white.

        It need not if the iteration explains y near what was cut off about as well where it must stay below white: y's
        white is white then. Under the right kernel this shows what :func:`white_level` can only suppose.

        Args:
            kernel: as ``degradation`` takes it.
            noise: its standard deviation in y, range 2.
        """
        near = near_to(self.cut, NEAR) > 0
        shown = self._richardson_lucy(x, y, kernel, degradation, 1.0)
        residual = (degradation.forward(shown, kernel) - y) / 2
        off = torch.where(self.cut, residual.clamp_max(0), residual).square()[near.expand_as(y)].mean()
        if off < UNEXPLAINED ** 2 + (noise / 2) ** 2:
            return None
        return self._richardson_lucy(x, y, kernel, degradation, math.inf)

    def _richardson_lucy(self, x: Tensor, y: Tensor, kernel: Tensor, degradation: Degradation, most: float) -> Tensor:
        """x <- x · Aᵀ(y / A x) / Aᵀ1 in units of light, black is 0 and white 1 (Richardson 1972, Lucy 1974).

        A = (· * k)↓s. It never goes below black and gathers a streak into the light that made it. What was cut off of y
        counts as what is seen there, if more; what no LR pixel sees stays as it is. All of x takes part, but only its
        ``room`` is returned changed.

        Args:
            most: the light of the room is at most this.
        """
        light, whole = ((x + 1) / 2).clamp_min(DARKEST), degradation.adjoint(torch.ones_like(y), kernel)
        light = torch.where(self.room, light.clamp_max(1), light)
        there = ((y + 1) / 2).clamp_min(0)
        for _ in range(ROUNDS):
            seen = degradation.forward(light, kernel).clamp_min(DARKEST)
            wanted = torch.where(self.cut, torch.maximum(there, seen), there)
            change = (degradation.adjoint(wanted / seen, kernel) + DARKEST) / (whole + DARKEST)
            light = torch.where(self.room, (light * change).clamp_max(most), light * change)
        return torch.where(self.room, 2 * light - 1, x)
