"""BlindDiff (Li et al. 2024): a diffusion model that estimates the kernel with the noise, and samples with both.

Training is Algorithm 1 with the loss of Eq. 13, sampling Algorithm 2: reverse diffusion, each step of which goes down
the gradient of ||y - (k_t * x0_hat(x_t))↓||², taken through the whole network (Eq. 12).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .degradation import Degradation
from .diffusion import Schedule, noise_like, timesteps
from .nets.mcformer import MULTIPLE
from .sections import check_number, from_section, nearest
from .tiles import blended

CHOICES = {'sampler': ('ancestral', 'ddim'), 'guidance': ('kernel', 'bicubic', 'none'),
           'residual': ('squared', 'norm'), 'downsample': ('direct', 'bicubic'),
           'border': ('reflect', 'replicate', 'zeros'), 'image_range': ('signed', 'unit')}


@dataclass(frozen=True)
class BlindDiffConfig:
    """Training and sampling. Defaults are the paper's; where it is silent, those of the released code.

    Attributes:
        timesteps: T of the linear schedule 1e-4 … 0.02.
        steps: sampling steps, spread evenly over T. The released code has 500.
        sampler: ``ancestral`` (Algorithm 2) or ``ddim``.
        eta: of ``ddim``: 0 is deterministic, 1 ancestral.
        guidance: the gradient term (Table 3): ``kernel`` (kernel-aware), ``bicubic`` (as if y were a bicubic
            reduction of x) or ``none``.
        guidance_weight: lambda (Table 4).
        residual: what the gradient is of: ``squared``, ||r||² as in Algorithm 2, or ``norm``, ||r|| (released).
        shrinkage: weight of ||x0_hat|| besides ||r||, with ``norm`` only. Not in the paper; the released code has 0.1.
        downsample: of the gradient term: ``direct``, every s-th pixel as in Eq. 1, or ``bicubic``, a bicubic reduction
            of the blurred image (released).
        border: of the gradient term, see :class:`~.degradation.Degradation`.
        image_range: what the network sees: ``signed``, [-1, 1], or ``unit``, [0, 1] (released).
        clip_x0: keep x0_hat within the range at each step. Paper and released code do not; but at the first steps
            1 / √ᾱ_t is 157, and with it the squared term of a net that is not trained to the end runs away.
        tile, overlap: in LR pixels. Larger images are done in tiles whose predictions are blended at every step, so
            that they share all noise. 0: whole.
        kernel_weight: weight of the kernel's L1 in Eq. 13; 0: no kernel constraint (Table 3).
        variance_weight: weight of the variational bound, where the network learns the variance.
        seed: of all randomness in sampling, with the image's name.

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
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
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
        """The config of an option file's section: what ``preset`` (paper, released) says, and each key over it.

        Raises:
            ValueError: unknown key (the nearest known one is named) or preset, or a value out of range.
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
    """Parts of the training loss, scalars: total = noise + kernel_weight · kernel + variance_weight · variance."""

    total: Tensor
    noise: Tensor
    kernel: Tensor
    variance: Tensor | None


def training_loss(net: nn.Module, x0: Tensor, y: Tensor, k_true: Tensor, t: Tensor, eps: Tensor, schedule: Schedule,
                  config: BlindDiffConfig) -> Losses:
    """Eq. 13: mean squared error of the noise, and L1 of the kernel, Σ |k_true - k| over its entries (0 to 2).

    The paper leaves open whether its norms are sums or means; the mean over pixels and the sum over a kernel, which
    sums to 1 whatever its size, are both of order 1 at the start. With a learned variance the variational bound is
    added, its gradient kept from the mean (Nichol & Dhariwal 2021, Section 3.1).

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

    p's variance is :meth:`~.diffusion.Schedule.learned_variance`. At t = 0 the density at x0 stands for the
    probability of its 8-bit bin of width 2 / 255.
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


@dataclass(frozen=True)
class SampleState:
    """One step of Algorithm 2; tensors are detached.

    Attributes:
        step, total: number of this step, 1 … ``total``.
        t: diffusion time that the step worked at.
        x_t: the image after the step, (B, 3, H, W); at the last step the result. In [-1, 1] but for noise, not clamped.
        x0_hat: the network's estimate of x0 at this step, likewise.
        kernel: (B, K, K); the mean of the tiles'.
        residual: root mean square of y - (k * x0_hat)↓ per image (B,), in units of the network's range.
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
    """Algorithm 2, step by step; memory does not depend on the number of steps.

    Args:
        net: called with x_t, t (B,) and y, gives a :class:`~.nets.mcformer.Prediction`.
        y: (B, 3, h, w) in [-1, 1], any size.
        scale: s.
        generators: one per image: an image's result does not depend on the others in its batch.
        kernel: the true one (K, K) or (B, K, K) for the gradient term, in place of the estimate (``kernel_oracle``).
        schedule: other than the config's.
    """
    if len(generators) != len(y):
        raise ValueError(f'sampling needs a generator per image: {len(y)} images, {len(generators)} generators')
    schedule = schedule or config.schedule()
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
        said = _predict(net, x_t, t, y, scale, schedule, config, known)
        x0_hat = _estimate(x_t, said.eps, t, schedule, config)
        if config.sampler == 'ddim':
            x_t = schedule.ddim_step(x_t, x0_hat, t, t_next, noise, config.eta)
        else:  # line 5
            variance = None if said.v is None else schedule.learned_variance(said.v, t, t_next)
            x_t = schedule.posterior_step(x_t, x0_hat, t, t_next, noise, variance=variance)
        x_t = x_t - config.guidance_weight * said.gradient  # line 6
        yield SampleState(step, len(path) - 1, t, *(from_range(x[..., :height, :width], config) for x in (x_t, x0_hat)),
                          said.kernel, said.residual)


def data_term(y: Tensor, x0: Tensor, kernel: Tensor, scale: int, config: BlindDiffConfig) -> tuple[Tensor, Tensor]:
    """What the gradient of line 6 is of, and ||r||², r = y - (k * x0)↓, per image: (B,), (B,)."""
    squared = (y - degrade(x0, kernel, scale, config)).square().sum((1, 2, 3))
    if config.residual == 'squared':
        return squared, squared
    norm = (squared + 1e-12).sqrt()  # its gradient is finite at 0
    return norm + config.shrinkage * x0.flatten(1).norm(dim=1), squared


def degrade(x: Tensor, kernel: Tensor, scale: int, config: BlindDiffConfig) -> Tensor:
    """(k * x)↓s of each image with its own kernel: (B, C, H, W), (B, K, K) to (B, C, h, w)."""
    if config.guidance == 'bicubic':
        return _reduce(x, scale)
    stride = scale if config.downsample == 'direct' else 1
    degradation = Degradation(stride, kernel.shape[-1], config.border)
    blurred = torch.cat([degradation.forward(one[None], k) for one, k in zip(x, kernel)])
    return blurred if config.downsample == 'direct' else _reduce(blurred, scale)


def to_range(x: Tensor, config: BlindDiffConfig) -> Tensor:
    """[-1, 1] to the network's range."""
    return x if config.image_range == 'signed' else (x + 1) / 2


def from_range(x: Tensor, config: BlindDiffConfig) -> Tensor:
    """The network's range to [-1, 1]."""
    return x if config.image_range == 'signed' else 2 * x - 1


def image_generator(seed: int, name: str, device: torch.device | str = 'cpu') -> torch.Generator:
    """The random stream of one image, from ``seed`` and ``name`` alone."""
    digest = hashlib.sha256(f'{seed}/{name}/blinddiff'.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], 'big') >> 1)


class _Guided(NamedTuple):
    """A prediction with the gradient of line 6 (zeros without guidance) and the rms of the residual, detached."""

    eps: Tensor
    v: Tensor | None
    kernel: Tensor
    gradient: Tensor
    residual: Tensor


def _predict(net: nn.Module, x_t: Tensor, t: int, y: Tensor, scale: int, schedule: Schedule, config: BlindDiffConfig,
             known: Tensor | None) -> _Guided:
    """:func:`_guided` on the whole, or on tiles that are blended; kernel and residual are means over the tiles."""
    tile = config.tile or max(y.shape[-2:])
    tile += -tile % _multiple(scale)
    if max(y.shape[-2:]) <= tile:
        return _guided(net, x_t, t, y, scale, schedule, config, known)
    sums: list[Tensor | None] = [None] * 3
    kernels, residuals = [], []
    for rows, cols, weight in blended(y.shape[-2:], tile, config.overlap):
        place = (..., *(slice(scale * cut.start, scale * cut.stop) for cut in (rows, cols)))
        piece = _guided(net, x_t[place], t, y[..., rows, cols], scale, schedule, config, known)
        w = weight(scale).to(x_t)
        for i, part in enumerate((piece.eps, piece.gradient, piece.v)):
            if part is not None:
                sums[i] = torch.zeros_like(x_t) if sums[i] is None else sums[i]
                sums[i][place] += w * part
        kernels.append(piece.kernel)
        residuals.append(piece.residual.square())
    eps, gradient, v = sums
    return _Guided(eps, v, torch.stack(kernels).mean(0), gradient, torch.stack(residuals).mean(0).sqrt())


def _guided(net: nn.Module, x_t: Tensor, t: int, y: Tensor, scale: int, schedule: Schedule, config: BlindDiffConfig,
            known: Tensor | None) -> _Guided:
    """Lines 5 and 6 on one piece: the network's word, and the gradient through it."""
    guided = config.guidance != 'none' and config.guidance_weight > 0
    with torch.set_grad_enabled(guided):
        x = x_t.detach().requires_grad_(guided)
        said = net(x, torch.full((len(x),), t, device=x.device), y)
        k = said.kernel if known is None else known
        term, squared = data_term(y, _estimate(x, said.eps, t, schedule, config), k, scale, config)
        gradient = torch.autograd.grad(term.sum(), x)[0] if guided else torch.zeros_like(x_t)
    v = None if said.v is None else said.v.detach()
    return _Guided(said.eps.detach(), v, said.kernel.detach(), gradient, (squared.detach() / y[0].numel()).sqrt())


def _estimate(x_t: Tensor, eps: Tensor, t: int, schedule: Schedule, config: BlindDiffConfig) -> Tensor:
    """x0_hat of Eq. 4."""
    x0_hat = schedule.x0_from_eps(x_t, eps, t)
    if not config.clip_x0:
        return x0_hat
    return x0_hat.clamp(-1 if config.image_range == 'signed' else 0, 1)


def _reduce(x: Tensor, scale: int) -> Tensor:
    """Bicubic reduction with antialiasing, as PIL and MATLAB do it."""
    size = [n // scale for n in x.shape[-2:]]
    return F.interpolate(x, size=size, mode='bicubic', align_corners=False, antialias=True)


def _multiple(scale: int) -> int:
    """LR sizes must be multiples of this, so that HR sizes are multiples of what the network needs."""
    return MULTIPLE // math.gcd(MULTIPLE, scale)


def _padded(y: Tensor, scale: int) -> Tensor:
    """y continued at its lower right edges to sizes that the network takes."""
    height, width = y.shape[-2:]
    return F.pad(y, (0, -width % _multiple(scale), 0, -height % _multiple(scale)), mode='replicate')
