"""BlindDiff (Li et al. 2024), a diffusion model that predicts the kernel along with the noise: settings and loss.

Training is Algorithm 1 with the loss of Eq. 13; for sampling, Algorithm 2, see ``blinddiff_sampling``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .degradation import BORDERS
from .diffusion import Schedule
from .sections import check_choice, check_number, from_section, nearest

CHOICES = {'sampler': ('ancestral', 'ddim'), 'guidance': ('kernel', 'bicubic'),
           'residual': ('squared', 'norm'), 'downsample': ('direct', 'bicubic'),
           'border': BORDERS[1:], 'image_range': ('signed', 'unit')}


@dataclass(frozen=True)
class BlindDiffConfig:
    """Settings of training and sampling. Defaults are the paper's or, where it is silent, the released code's.

    Attributes:
        timesteps: T of the linear schedule 1e-4 … 0.02.
        steps: sampling steps, evenly spaced over T. The released code uses 500.
        sampler: ``ancestral`` (Algorithm 2) or ``ddim``.
        eta: noise of ``ddim``: 0 is deterministic, 1 ancestral.
        guidance: the gradient term (Table 3): ``kernel`` (kernel-aware) or ``bicubic`` (treats y as bicubically
            downscaled x).
        guidance_weight: lambda (Table 4); 0: no gradient term.
        residual: term whose gradient is taken: ``squared``, ||r||² as in Algorithm 2, or ``norm``, ||r|| (released).
        shrinkage: weight of an additional term ||x0_hat||, with ``norm`` only. Not in the paper; the released code uses
            0.1.
        downsample: downsampling in the gradient term: ``direct``, every s-th pixel as in Eq. 1, or ``bicubic``
            downscaling of the blurred image (released).
        border: border in the gradient term, see :class:`~.degradation.Degradation`.
        image_range: range of the network's images: ``signed``, [-1, 1], or ``unit``, [0, 1] (released).
        clip_x0: clip x0_hat to the range at each step. Paper and released code do not clip; but 1 / √ᾱ_t is 157 at the
            first steps, which makes the squared term diverge with an incompletely trained net.
        tile, overlap: in LR pixels. Larger images are processed in tiles whose predictions are blended at every step,
            so that all share the same noise. 0: no tiles.
        kernel_weight: weight of the kernel's L1 in Eq. 13; 0: no kernel constraint (Table 3).
        variance_weight: weight of the variational bound, if the network learns the variance.
        seed: seeds all randomness in sampling, together with the image's name.

    Raises:
        ValueError: a value is out of range; the message names the option.
    """

    timesteps: int = 1000
    steps: int = 500
    sampler: str = 'ancestral'
    eta: float = 0.0
    guidance: str = 'kernel'
    guidance_weight: float = 1.0
    residual: str = 'squared'
    shrinkage: float = 0.0
    downsample: str = 'direct'
    border: str = 'reflect'
    image_range: str = 'signed'
    clip_x0: bool = True
    tile: int = 64
    overlap: int = 16
    kernel_weight: float = 1.0
    variance_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        check_number('timesteps', self.timesteps, 2, whole=True)
        check_number('steps', self.steps, 1, self.timesteps, whole=True)
        check_number('eta', self.eta, 0, 1)
        for name in ('guidance_weight', 'shrinkage', 'kernel_weight', 'variance_weight'):
            check_number(name, getattr(self, name), 0)
        for name in ('tile', 'overlap', 'seed'):
            check_number(name, getattr(self, name), 0, whole=True)
        if not isinstance(self.clip_x0, bool):
            raise ValueError(f'clip_x0 must be true or false, got {self.clip_x0!r}')
        if self.tile and not self.overlap < self.tile:
            raise ValueError(f'overlap must be below tile = {self.tile}, got {self.overlap}')
        if self.shrinkage and self.residual != 'norm':
            raise ValueError("shrinkage needs residual: norm, got residual: 'squared'")

    @classmethod
    def from_options(cls, options: Mapping[str, Any], where: str = 'blinddiff') -> BlindDiffConfig:
        """The config described by a section of an option file: ``preset`` (paper, released), overridden by other keys.

        Raises:
            ValueError: unknown key (the message suggests the closest known one) or preset, or a value out of range.
        """
        options = dict(options)
        preset = options.pop('preset', 'paper')
        if preset not in tuple(PRESETS):
            raise ValueError(f"unknown preset {preset!r} in '{where}'{nearest(str(preset), PRESETS)}")
        return from_section(cls, {**PRESETS[preset], **options}, where)

    def schedule(self) -> Schedule:
        """The linear schedule of T steps."""
        return Schedule(self.timesteps)


PRESETS: dict[str, dict[str, Any]] = {
    'paper': {},
    'released': {'residual': 'norm', 'shrinkage': 0.1, 'downsample': 'bicubic', 'image_range': 'unit',
                 'clip_x0': False, 'kernel_weight': 0.0},
}


class Losses(NamedTuple):
    """Terms of the training loss, scalars: total = noise + kernel_weight · kernel + variance_weight · variance."""

    total: Tensor
    noise: Tensor
    kernel: Tensor
    variance: Tensor | None


def training_loss(net: nn.Module, x0: Tensor, y: Tensor, k_true: Tensor, t: Tensor, eps: Tensor, schedule: Schedule,
                  config: BlindDiffConfig) -> Losses:
    """Eq. 13: mean squared error of the noise, and L1 of the kernel, Σ |k_true - k| over its entries (0 to 2).

    The paper does not say whether its norms are sums or means. The mean over pixels and the sum over a kernel (which
    sums to 1 whatever its size) are both of order 1 at the start. With a learned variance, the variational bound is
    added, with a stop-gradient on the mean (Nichol & Dhariwal 2021, Section 3.1).

    Args:
        x0: (B, 3, H, W) in [-1, 1]; y: (B, 3, h, w) in [-1, 1]; k_true: (B, K, K), sum to 1.
        t: (B,) in 0 … T - 1, uniform (Algorithm 1, line 5).
        eps: N(0, I) of x0's shape.
    """
    x0, y = to_range(x0, config), to_range(y, config)
    x_t = schedule.q_sample(x0, t, eps)
    said = net(x_t, t, y)
    noise = (said.eps - eps).square().mean()
    kernel = (said.kernel - k_true).abs().sum((1, 2)).mean()
    total = noise + config.kernel_weight * kernel
    variance = None
    if said.v is not None:
        variance = variance_bound(said.eps.detach(), said.v, x_t, x0, t, schedule)
        total = total + config.variance_weight * variance
    return Losses(total, noise, kernel, variance)


def variance_bound(eps: Tensor, v: Tensor, x_t: Tensor, x0: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Mean over pixels, in bits, of KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)); at t = 0 of -log2 p(x0 | x_1).

    p's variance is :meth:`~.diffusion.Schedule.learned_variance`. At t = 0 the probability of x0's 8-bit bin is
    approximated by the density at x0 times the bin width 2 / 255, for [-1, 1]. In ``unit`` range the bin is half as
    wide, which only adds a constant.
    """
    mean_q, variance_q = schedule.posterior(x_t, x0, t, t - 1)
    mean_p, _ = schedule.posterior(x_t, schedule.x0_from_eps(x_t, eps, t), t, t - 1)
    variance_p = schedule.learned_variance(v, t, t - 1)
    distance = (mean_q - mean_p).square() / variance_p
    ratio = torch.where(variance_q > 0, variance_q / variance_p, torch.ones_like(variance_p))
    kl = 0.5 * (ratio - 1 - ratio.log() + distance)
    first = 0.5 * (distance + (2 * math.pi * variance_p).log()) - math.log(2 / 255)
    at_first = (t == 0).reshape(-1, 1, 1, 1)
    return torch.where(at_first, first, kl).mean() / math.log(2)


def to_range(x: Tensor, config: BlindDiffConfig) -> Tensor:
    """[-1, 1] to the network's range."""
    return x if config.image_range == 'signed' else (x + 1) / 2


def from_range(x: Tensor, config: BlindDiffConfig) -> Tensor:
    """The network's range to [-1, 1]."""
    return x if config.image_range == 'signed' else 2 * x - 1
