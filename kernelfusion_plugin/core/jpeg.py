"""Estimate the error that JPEG compression left in a picture, from its pixels: block grid, quantisation steps, loss.

JPEG rounds each coefficient of a block's cosine transform to multiples of a step that depends on the frequency. After
decoding, the coefficients are still there up to rounding to 8 bits, so their histogram is a comb (Fan & de Queiroz
2003). The spacing of its teeth is the step, and the fraction rounded to zero determines the loss there.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from .colour import LUMA

BLOCK = 8
STEPS = torch.arange(2.0, 65.0)  # candidates; a comb of step 1 is indistinguishable from 8-bit values
FEWEST_BLOCKS, MOST_BLOCKS = 64, 4096  # minimum required, and maximum examined
SURE = 1.5  # coefficients quantised to zero stay below this after rounding to 8 bits
ENOUGH = 16  # coefficients not rounded to zero that are needed to detect a step
CLEAR = 0.3  # minimum contrast of a comb for its step to be accepted
FOUND = 0.2, 1.5  # minimum contrast of the grid, and minimum ratio to the second best grid's (by chance: 1.0 to 1.1)
LOW = [BLOCK * u + v for u in range(BLOCK) for v in range(BLOCK) if 0 < u + v < 5]  # frequencies used to find the grid


@torch.no_grad()
def jpeg_error(y: Tensor) -> float:
    """RMS error of luma that JPEG compression has left in y; 0 if y shows no sign of it.

    Works for any position of the block grid, so for crops too, but not after resizing, nor for qualities of about 97
    and above.

    Args:
        y: (1, 3, h, w) in [-1, 1]; with fewer than 64 blocks of 8 x 8 the result is 0.

    Returns:
        The error in units of y, from quantisation alone; noise present before compression is not included.
    """
    luma = (torch.einsum('c,chw->hw', torch.tensor(LUMA), y[0].float().cpu()) + 1) * 127.5
    if math.prod(n // BLOCK for n in luma.shape) < FEWEST_BLOCKS:
        return 0.0
    grids = [_coefficients(luma, top, left) for top, left in itertools.product(range(BLOCK), repeat=2)]
    contrasts = [_contrast(coefficients[:, LOW]) for coefficients in grids]
    *_, second, best = sorted(contrasts)
    if best < FOUND[0] or best < FOUND[1] * second:
        return 0.0
    return math.sqrt(_lost(grids[contrasts.index(best)]) / BLOCK ** 2) / 127.5


def _coefficients(luma: Tensor, top: int, left: int) -> Tensor:
    """Orthonormal cosine transform of the blocks of the grid with origin (top, left), (blocks, 64)."""
    rows, columns = (n // BLOCK for n in (luma.shape[0] - top, luma.shape[1] - left))
    blocks = luma[top:top + rows * BLOCK, left:left + columns * BLOCK]
    blocks = blocks.reshape(rows, BLOCK, columns, BLOCK).transpose(1, 2).reshape(-1, BLOCK, BLOCK)
    blocks = blocks[::math.ceil(len(blocks) / MOST_BLOCKS) or 1]
    place, frequency = torch.arange(BLOCK), torch.arange(BLOCK)[:, None]
    waves = torch.cos(math.pi / BLOCK * (place + 0.5) * frequency) * math.sqrt(2 / BLOCK)
    waves[0] *= math.sqrt(0.5)
    return (waves @ blocks @ waves.T).reshape(-1, BLOCK ** 2)


def _comb(c: Tensor) -> tuple[float, float, int]:
    """(contrast, step, count) of the clearest comb in a frequency's coefficients; count: those not rounded to zero.

    The contrast is the mean of cos(2π c / step) over these: 1 for a comb, about 0 for any smooth density.
    """
    kept = c.abs()[:, None] > STEPS / 2
    count = kept.sum(0)
    contrast = (torch.cos(2 * math.pi / STEPS * c[:, None]) * kept).sum(0) / count.clamp_min(1)
    contrast = torch.where(count < ENOUGH, 0, contrast)
    best = int(contrast.argmax())
    return float(contrast[best]), float(STEPS[best]), int(count[best])


def _contrast(coefficients: Tensor) -> float:
    """Mean contrast of the frequencies' clearest combs, weighted by their counts."""
    combs = [_comb(c) for c in coefficients.T]
    return sum(contrast * count for contrast, _, count in combs) / max(1, sum(count for *_, count in combs))


def _lost(coefficients: Tensor) -> float:
    """Sum over frequencies of the mean squared quantisation error of coefficients (blocks, 64).

    Assumes that they were Laplace-distributed. For those not rounded to zero, the error is uniform within half a step,
    with mean square step² / 12. The others contribute the second moment of the Laplace density within half a step; its
    scale b follows from the observed fraction p = exp(-step / 2b) beyond. Frequencies with almost all coefficients at
    zero take b from a power law fitted to the other frequencies.
    """
    total, seen, unseen = 0.0, [], []
    for index in range(1, BLOCK ** 2):
        c, distance = coefficients[:, index], math.log(math.hypot(*divmod(index, BLOCK)))
        contrast, step, count = _comb(c)
        if contrast < CLEAR:
            if int((c.abs() > SURE).sum()) < ENOUGH:
                unseen.append(distance)
            continue
        half, kept, even = step / 2, min(count / len(c), 1 - 0.5 / len(c)), step ** 2 / 12
        b = -half / math.log(kept)
        seen.append((distance, math.log(b)))
        zeros = 2 * b ** 2 - kept * (half ** 2 + 2 * half * b + 2 * b ** 2)
        total += kept * even + zeros
    if len(seen) > 2:
        slope, offset = np.polyfit(*zip(*seen), 1)
        total += sum(2 * math.exp(2 * (offset + slope * distance)) for distance in unseen)
    return total
