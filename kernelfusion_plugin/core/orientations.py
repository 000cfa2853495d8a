"""The eight orientations of a picture: quarter turns, with or without mirroring."""

from __future__ import annotations

from torch import Tensor

from .diffusion import Prior

COUNT = 8


def oriented(x: Tensor, number: int) -> Tensor:
    """x (…, H, W) after ``number`` quarter turns, also mirrored if it is >= 4 (mod 8). Even numbers keep its size."""
    x = x.rot90(number % 4, (-2, -1)) if number % 4 else x  # rot90 by 0 would copy it
    return x.flip(-1) if number % COUNT >= 4 else x


def upright(x: Tensor, number: int) -> Tensor:
    """The inverse of :func:`oriented`."""
    x = x.flip(-1) if number % COUNT >= 4 else x
    return x.rot90(-number % 4, (-2, -1)) if number % 4 else x


def predict_turned(prior: Prior, x_t: Tensor, t: int, number: int) -> Tensor:
    """x0_hat (B, C, H, W) of a prior that sees x_t in orientation ``number``.

    A network errs differently in each orientation, and a pass that keeps one orientation from its first step to its
    last accumulates that one's errors (periodical geometric self-ensemble, Zhang et al. 2021, DPIR).
    """
    return upright(prior.predict_x0(oriented(x_t, number), t), number)
