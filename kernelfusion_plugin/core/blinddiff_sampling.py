"""Algorithm 2 of BlindDiff (Li et al. 2024): reverse diffusion guided by the estimated kernel.

Each step descends the gradient of ||y - (k_t * x0_hat(x_t))↓||² with respect to x_t, through the network (Eq. 12).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blinddiff import BlindDiffConfig, from_range, to_range
from .degradation import Degradation, downscale_bicubic
from .diffusion import Schedule, noise_like, timesteps
from .nets.mcformer import MULTIPLE
from .seeds import derived
from .tiles import blended


@dataclass(frozen=True)
class SampleState:
    """One step of Algorithm 2; tensors are detached.

    Attributes:
        step, total: number of this step, 1 … ``total``.
        t: diffusion time of the step.
        x_t: the image after the step, (B, 3, H, W), the result after the last. In [-1, 1] plus noise, not clamped.
        x0_hat: the network's estimate of x0 at this step, of the same shape and range.
        kernel: (B, K, K), the mean over tiles.
        residual: RMS of y - (k * x0_hat)↓ per image (B,), in units of the network's range.
    """

    step: int
    total: int
    t: int
    x_t: Tensor
    x0_hat: Tensor
    kernel: Tensor
    residual: Tensor


def sample(net: nn.Module, y: Tensor, scale: int, config: BlindDiffConfig, generators: Sequence[torch.Generator],
           kernel: Tensor | None = None, schedule: Schedule | None = None) -> Iterator[SampleState]:
    """Algorithm 2, yielding a state per step; memory use does not depend on the number of steps.

    Args:
        net: maps x_t, t (B,) and y to a :class:`~.nets.mcformer.Prediction`.
        y: (B, 3, h, w) in [-1, 1], any size.
        scale: s.
        generators: one per image, so that an image's result does not depend on the rest of the batch.
        kernel: true kernel (K, K) or (B, K, K), used in the gradient term instead of the estimate (``kernel_oracle``).
        schedule: replaces the config's.
    """
    if len(generators) != len(y):
        raise ValueError(f'sampling needs one generator per image: {len(y)} images, {len(generators)} generators')
    schedule = schedule or config.schedule()
    guide = _Guide(net, scale, schedule, config)
    height, width = (scale * n for n in y.shape[-2:])
    y = _padded(to_range(y, config), scale)
    like = y.new_empty(len(y), y.shape[1], *(scale * n for n in y.shape[-2:]))
    known = None if kernel is None else kernel.to(y).expand(len(y), *kernel.shape[-2:])

    def draw() -> Tensor:
        return torch.cat([noise_like(like[:1], generator) for generator in generators])

    x_t = draw()  # line 2
    path = timesteps(schedule.steps - 1, config.steps)
    for step, (t, t_next) in enumerate(pairwise(path), 1):
        noise = draw() if t_next >= 0 else torch.zeros_like(x_t)  # line 4
        said = guide.predict(x_t, t, y, known)
        x0_hat = guide.estimate(x_t, said.eps, t)
        if config.sampler == 'ddim':
            x_t = schedule.ddim_step(x_t, x0_hat, t, t_next, noise, config.eta)
        else:  # line 5
            variance = None if said.v is None else schedule.learned_variance(said.v, t, t_next)
            x_t = schedule.posterior_step(x_t, x0_hat, t, t_next, noise, variance=variance)
        x_t = x_t - config.guidance_weight * said.gradient  # line 6
        yield SampleState(step, len(path) - 1, t, *(from_range(x[..., :height, :width], config) for x in (x_t, x0_hat)),
                          said.kernel, said.residual)


def data_term(y: Tensor, x0: Tensor, kernel: Tensor, scale: int, config: BlindDiffConfig) -> tuple[Tensor, Tensor]:
    """The term whose gradient line 6 takes, and ||r||², r = y - (k * x0)↓, per image: (B,), (B,)."""
    squared = (y - degrade(x0, kernel, scale, config)).square().sum((1, 2, 3))
    if config.residual == 'squared':
        return squared, squared
    norm = (squared + 1e-12).sqrt()  # its gradient is finite at 0
    return norm + config.shrinkage * x0.flatten(1).norm(dim=1), squared


def degrade(x: Tensor, kernel: Tensor, scale: int, config: BlindDiffConfig) -> Tensor:
    """(k * x)↓s of each image with its own kernel: (B, C, H, W), (B, K, K) to (B, C, h, w)."""
    if config.guidance == 'bicubic':
        return downscale_bicubic(x, scale)
    stride = scale if config.downsample == 'direct' else 1
    degradation = Degradation(stride, kernel.shape[-1], config.border)
    blurred = torch.cat([degradation.forward(one[None], k) for one, k in zip(x, kernel)])
    return blurred if config.downsample == 'direct' else downscale_bicubic(blurred, scale)


def image_generator(seed: int, name: str, device: torch.device | str = 'cpu') -> torch.Generator:
    """The random stream of one image, from ``seed`` and ``name`` alone."""
    return torch.Generator(device).manual_seed(derived(seed, name, 'blinddiff'))


class _Guided(NamedTuple):
    """A prediction with the gradient of line 6 (zeros without guidance) and the RMS residual, detached."""

    eps: Tensor
    v: Tensor | None
    kernel: Tensor
    gradient: Tensor
    residual: Tensor


@dataclass(frozen=True)
class _Guide:
    """Network and settings for lines 5 and 6."""

    net: nn.Module
    scale: int
    schedule: Schedule
    config: BlindDiffConfig

    def predict(self, x_t: Tensor, t: int, y: Tensor, known: Tensor | None) -> _Guided:
        """:meth:`piece` on the whole image, or on blended tiles, each guided by its own kernel estimate.

        With tiles, kernel and residual are means over them.
        """
        tile = self.config.tile or max(y.shape[-2:])
        tile += -tile % _multiple(self.scale)
        if max(y.shape[-2:]) <= tile:
            return self.piece(x_t, t, y, known)
        sums: list[Tensor | None] = [None] * 3
        kernels, residuals = [], []
        for rows, cols, weight in blended(y.shape[-2:], tile, self.config.overlap):
            place = (..., *(slice(self.scale * cut.start, self.scale * cut.stop) for cut in (rows, cols)))
            piece = self.piece(x_t[place], t, y[..., rows, cols], known)
            w = weight(self.scale).to(x_t)
            for i, part in enumerate((piece.eps, piece.gradient, piece.v)):
                if part is not None:
                    sums[i] = torch.zeros_like(x_t) if sums[i] is None else sums[i]
                    sums[i][place] += w * part
            kernels.append(piece.kernel)
            residuals.append(piece.residual.square())
        eps, gradient, v = sums
        return _Guided(eps, v, torch.stack(kernels).mean(0), gradient, torch.stack(residuals).mean(0).sqrt())

    def piece(self, x_t: Tensor, t: int, y: Tensor, known: Tensor | None) -> _Guided:
        """The network's prediction, and the gradient through it."""
        guided = self.config.guidance_weight > 0
        with torch.set_grad_enabled(guided):
            x = x_t.detach().requires_grad_(guided)
            said = self.net(x, torch.full((len(x),), t, device=x.device), y)
            k = said.kernel if known is None else known
            term, squared = data_term(y, self.estimate(x, said.eps, t), k, self.scale, self.config)
            gradient = torch.autograd.grad(term.sum(), x)[0] if guided else torch.zeros_like(x_t)
        v = None if said.v is None else said.v.detach()
        return _Guided(said.eps.detach(), v, said.kernel.detach(), gradient, (squared.detach() / y[0].numel()).sqrt())

    def estimate(self, x_t: Tensor, eps: Tensor, t: int) -> Tensor:
        """x0_hat of Eq. 4."""
        x0_hat = self.schedule.x0_from_eps(x_t, eps, t)
        if not self.config.clip_x0:
            return x0_hat
        return x0_hat.clamp(-1 if self.config.image_range == 'signed' else 0, 1)


def _multiple(scale: int) -> int:
    """LR sizes must be multiples of this for HR sizes to be multiples of what the network needs."""
    return MULTIPLE // math.gcd(MULTIPLE, scale)


def _padded(y: Tensor, scale: int) -> Tensor:
    """y padded at the bottom and right (edge values) to a size that the network accepts."""
    height, width = y.shape[-2:]
    return F.pad(y, (0, -width % _multiple(scale), 0, -height % _multiple(scale)), mode='replicate')
