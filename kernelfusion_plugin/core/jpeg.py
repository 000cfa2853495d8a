"""What JPEG has cost a picture, from its pixels: the grid, the quantisation steps, and what they took away.

JPEG rounds each coefficient of a block's cosine transform to multiples of a step of its frequency, and decoding keeps
them there but for rounding to 8 bits: the coefficients' histogram is a comb (Fan & de Queiroz 2003). Its teeth tell the
steps, and the share that was rounded to zero what is lost there.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from .colour import LUMA

BLOCK = 8
STEPS = torch.arange(2.0, 65.0)  # that are looked for; a comb of step 1 cannot be told from 8-bit values
FEWEST_BLOCKS, MOST_BLOCKS = 64, 4096  # from how many on something can be said, and how many are looked at
SURE = 1.5  # what rounding to 8 bits leaves of a coefficient that was zero stays below
ENOUGH = 16  # coefficients, not rounded to zero, that a step can be told from
CLEAR = 0.3  # of a comb's contrast, at least, where a step is believed
FOUND = 0.2, 1.5  # the grid's contrast, at least, and as a multiple of the next best grid's (chance: 1.0 to 1.1)
LOW = [BLOCK * u + v for u in range(BLOCK) for v in range(BLOCK) if 0 < u + v < 5]  # frequencies that tell the grid


@torch.no_grad()
def jpeg_error(y: Tensor) -> float:
    """Root mean square error of luma that JPEG compression has left in y, 0 where y shows no sign of it.

    It is found wherever the grid of blocks lies, so in crops too, but not once a picture has been resized, nor at
    qualities of about 97 and above.

    Args:
        y: (1, 3, h, w) in [-1, 1]; of fewer than 64 blocks of 8 x 8 nothing can be said, and 0 is returned.

    Returns:
        in units of y. By quantisation alone: noise that the picture had before is not in it.
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
    """The orthonormal cosine transform of blocks of the grid that begins at (top, left), (blocks, 64)."""
    rows, columns = (n // BLOCK for n in (luma.shape[0] - top, luma.shape[1] - left))
    blocks = luma[top:top + rows * BLOCK, left:left + columns * BLOCK]
    blocks = blocks.reshape(rows, BLOCK, columns, BLOCK).transpose(1, 2).reshape(-1, BLOCK, BLOCK)
    blocks = blocks[::math.ceil(len(blocks) / MOST_BLOCKS) or 1]
    place, frequency = torch.arange(BLOCK), torch.arange(BLOCK)[:, None]
    waves = torch.cos(math.pi / BLOCK * (place + 0.5) * frequency) * math.sqrt(2 / BLOCK)
    waves[0] *= math.sqrt(0.5)
    return (waves @ blocks @ waves.T).reshape(-1, BLOCK ** 2)


def _comb(c: Tensor) -> tuple[float, float, int]:
    """(contrast, step, count): the clearest comb of a frequency's coefficients, and how many were not rounded to zero.

    The contrast is the mean of cos(2π c / step) over these: 1 for a comb, about 0 for any smooth density.
    """
    kept = c.abs()[:, None] > STEPS / 2
    count = kept.sum(0)
    contrast = (torch.cos(2 * math.pi / STEPS * c[:, None]) * kept).sum(0) / count.clamp_min(1)
    contrast = torch.where(count < ENOUGH, 0, contrast)
    best = int(contrast.argmax())
    return float(contrast[best]), float(STEPS[best]), int(count[best])


def _contrast(coefficients: Tensor) -> float:
    """Mean contrast over the frequencies' clearest combs, each counting by its coefficients."""
    combs = [_comb(c) for c in coefficients.T]
    return sum(contrast * count for contrast, _, count in combs) / max(1, sum(count for *_, count in combs))


def _lost(coefficients: Tensor) -> float:
    """Sum over the frequencies of the mean square of what quantisation took off coefficients (blocks, 64).

    They are taken for Laplace-distributed before. Those kept are off by anything up to half a step, step² / 12 in the
    mean. Those rounded to zero are what a Laplace density has within half a step, if p = exp(-step / 2b) of it lies
    beyond, as was seen. Where next to nothing is left to see, b is that of a power law through the other frequencies.
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
