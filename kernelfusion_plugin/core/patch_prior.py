"""Phase 1: fit the patch diffusion net PD to one image, and use it as a prior.

The loss is the v-prediction MSE of KernelFusion (Sec. 4, Phase 1): E || PD(x_t, t) - v_t ||² over random crops
of the image, random t and noise. By default crops are neither flipped nor rotated: that would erase the direction of
the blur.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Generator as Iter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .diffusion import Schedule
from .nets.patch_net import RECEPTIVE_FIELD
from .orientations import COUNT, oriented
from .sections import check_choice
from .tiles import Tiles

READ = 25  # on a GPU, the loss is read every this many steps
PRECISIONS = ('auto', 'fp32', 'bf16')  # see :func:`autocast`


@dataclass(frozen=True)
class PriorConfig:
    """Settings of Phase 1. Defaults are the paper's (Sec. 4 and A.2); presets change them, see ``config.PRESETS``.

    Attributes:
        channels: filters of PD's hidden layers (A.2: 128).
        steps: gradient steps (A.2: 600 000; Table 6: 100 000 lose 0.07 dB).
        crop: side of the random crops in pixels (A.2: 64); smaller images are used whole.
        batch: crops per step (not stated in the paper; 1).
        lr, lr_end: Adam's learning rate at the start and at the end of cosine annealing (A.2: 1e-4; end not stated).
        timesteps: T (Sec. 4: 1000).
        t_max: train on t < t_max only; None: all T. Sufficient if the solver starts below it.
        ema: decay of the weights' moving average, which is then the trained net; 0: none (not in the paper).
        max_grad_norm: clip the gradient to this norm; None: no clipping (not in the paper).
        turns: whether to rotate and mirror each crop at random (not in the paper).
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 if the device supports it natively.
    """

    channels: int = 128
    steps: int = 600_000
    crop: int = 64
    batch: int = 1
    lr: float = 1e-4
    lr_end: float = 0.0
    timesteps: int = 1000
    t_max: int | None = None
    ema: float = 0.0
    max_grad_norm: float | None = None
    turns: bool = False
    precision: str = 'auto'

    def __post_init__(self) -> None:
        for name in ('channels', 'steps', 'batch', 'timesteps', 'lr'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'prior.{name} must be positive and finite, got {getattr(self, name)}')
        if self.channels % 2:
            raise ValueError(f'prior.channels must be even (sine and cosine of t), got {self.channels}')
        if self.crop < RECEPTIVE_FIELD:
            raise ValueError(f'prior.crop must be at least the receptive field {RECEPTIVE_FIELD}, got {self.crop}')
        if not 0 <= self.lr_end <= self.lr:
            raise ValueError(f'prior.lr_end must be between 0 and prior.lr = {self.lr}, got {self.lr_end}')
        if self.t_max is not None and not 1 <= self.t_max <= self.timesteps:
            raise ValueError(f'prior.t_max must be between 1 and prior.timesteps = {self.timesteps}, got {self.t_max}')
        if not 0 <= self.ema < 1:
            raise ValueError(f'prior.ema must be in [0, 1), got {self.ema}')
        if self.max_grad_norm is not None and not 0 < self.max_grad_norm < math.inf:
            raise ValueError(f'prior.max_grad_norm must be positive and finite, got {self.max_grad_norm}')
        check_choice('prior.precision', self.precision, PRECISIONS)


def computes_bf16(device: torch.device) -> bool:
    """Whether ``device`` supports bf16 natively (emulation would be slower than float32)."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probe = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
    return device.type == 'cpu' and bool(probe and probe())


class PatchPrior:
    """A patch diffusion net with its schedule: the prior p(x) of Phase 2.

    Args:
        net: maps (x_t, t) to v; frozen here (gradients flow through it, not into its weights).
        schedule: the schedule it was trained with.
        precision: see :class:`PriorConfig`.
        tiles: how to process large pictures in bounded memory. Requires a net with the attribute ``reach`` (and
            ``multiple``, if it has several levels).
    """

    def __init__(self, net: nn.Module, schedule: Schedule, precision: str = 'auto',
                 tiles: Tiles | None = None) -> None:
        self.net = net.eval().requires_grad_(False)
        self.schedule = schedule
        self.precision = precision
        self.tiles = tiles or Tiles()

    def predict_x0(self, x_t: Tensor, t: int) -> Tensor:
        """x0_hat = √ᾱ_t · x_t - √(1 - ᾱ_t) · PD(x_t, t); (B, C, H, W), differentiable in x_t."""
        index = torch.full((x_t.shape[0],), t, device=x_t.device)

        def estimate(x: Tensor) -> Tensor:
            with autocast(x.device, self.precision):
                v = self.net(x.contiguous(memory_format=torch.channels_last), index).to(x.dtype)
            return self.schedule.x0_from_v(x, v, t)

        return self.tiles.run(estimate, x_t, self.net)


class MeanPrior:
    """The mean of several priors' estimates x0_hat. The priors must have the same schedule.

    As far as the errors of the estimates are independent, their mean has a smaller error than each.
    """

    def __init__(self, priors: Sequence[PatchPrior]) -> None:
        self.priors = list(priors)
        self.schedule = self.priors[0].schedule
        if any(not torch.equal(p.schedule.alphas_cumprod, self.schedule.alphas_cumprod) for p in self.priors):
            raise ValueError('priors can only be averaged if they have the same schedule')

    def predict_x0(self, x_t: Tensor, t: int) -> Tensor:
        """Mean of x0_hat over the priors, (B, C, H, W)."""
        total = self.priors[0].predict_x0(x_t, t)
        for prior in self.priors[1:]:
            total = total + prior.predict_x0(x_t, t)
        return total / len(self.priors)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context for a ``precision`` setting on a device."""
    bf16 = precision == 'bf16' or (precision == 'auto' and computes_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()``, and forget the weights that autocast has rounded.

    By itself it keeps them to the end of the outermost context, which may be a disabled one around the whole run.
    """
    optimizer.step()
    torch.clear_autocast_cache()


@dataclass(frozen=True)
class PriorState:
    """State after ``step`` of ``total`` in Phase 1: the loss, and the net to use if training stopped here.

    On a GPU the loss is updated every :data:`READ` steps only, since reading it waits for all queued work.
    ``snapshot()`` returns the value for ``resume`` of :func:`fit_prior`, see :class:`.state.Phase2State`.
    """

    step: int
    total: int
    loss: float
    net: nn.Module
    snapshot: Callable[[], dict[str, Any]] = dict


def random_crops(y: Tensor, size: int, count: int, generator: Generator, turns: bool = False) -> Tensor:
    """``count`` random crops of side ``size`` (of the image's side, if smaller) from y (1, C, h, w).

    With ``turns``, each gets a random orientation that preserves its size. Does not synchronise a GPU.
    """
    def draw(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator, device=generator.device).to(y.device)

    height, width = (min(size, n) for n in y.shape[-2:])
    tops, lefts = draw(y.shape[-2] - height + 1), draw(y.shape[-1] - width + 1)
    pixels = _pixels(height, width, turns, y.device)
    pixels = pixels[draw(len(pixels))] if turns else pixels
    rows, columns = tops[:, None, None] + pixels // width, lefts[:, None, None] + pixels % width
    return y[0][:, rows, columns].transpose(0, 1).contiguous()


def _pixels(height: int, width: int, turns: bool, device: torch.device) -> Tensor:
    """(N, height, width): flat indices of a crop's pixels in each of the N orientations that preserve its size."""
    upright = torch.arange(height * width, device=device).reshape(height, width)
    numbers = range(0, COUNT if turns else 1, 1 if height == width else 2)
    return torch.stack([oriented(upright, number) for number in numbers])


def fit_patch_prior(net: nn.Module, y: Tensor, schedule: Schedule, config: PriorConfig, generator: Generator,
                    resume: Mapping[str, Any] | None = None) -> Iter[PriorState, None, None]:
    """:func:`fit_prior` on random crops of the image y (1, C, h, w) in [-1, 1]; ``generator`` on y's device."""
    return fit_prior(net, lambda: random_crops(y, config.crop, config.batch, generator, config.turns), schedule, config,
                     generator, resume)


def fit_prior(net: nn.Module, draw: Callable[[], Tensor], schedule: Schedule, config: PriorConfig,
              generator: Generator, resume: Mapping[str, Any] | None = None) -> Iter[PriorState, None, None]:
    """Train ``net`` in place on batches (B, C, H, W) in [-1, 1] from ``draw``; yields after every step.

    The net of the last state is the one to use: the moving average if there is one, else ``net`` itself.
    ``generator``, for levels and noise, must be on the batches' device. With ``resume``, a state's ``snapshot()``,
    training continues after that step; the random state of ``draw`` and ``generator`` must be what it was then.
    """
    net.train().to(memory_format=torch.channels_last)
    shadow = copy.deepcopy(net).requires_grad_(False) if config.ema else None
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    anneal = _annealing(optimizer, config)
    done, last = 0, None

    def snapshot() -> dict[str, Any]:
        return {'done': done, 'net': net.state_dict(), 'optimizer': optimizer.state_dict(),
                'shadow': None if shadow is None else shadow.state_dict()}

    if resume is not None:
        net.load_state_dict(resume['net'])
        optimizer.load_state_dict(resume['optimizer'])  # includes the learning rate
        done = anneal.last_epoch = resume['done']
        if shadow is not None:
            shadow.load_state_dict(resume['shadow'])
    for step in range(done + 1, config.steps + 1):
        loss = _velocity_loss(net, draw(), schedule, config, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), config.max_grad_norm)
        take_step(optimizer)
        anneal.step()
        if shadow is not None:
            decay = min(config.ema, (1 + step) / (10 + step))  # a shorter memory while the weights still change fast
            with torch.no_grad():
                torch._foreach_lerp_(list(shadow.parameters()), list(net.parameters()), 1 - decay)
        if loss.device.type == 'cpu' or step % READ == 0 or step == config.steps or last is None:
            last = float(loss.detach())
        done = step
        yield PriorState(step, config.steps, last, net if shadow is None else shadow, snapshot)


def _velocity_loss(net: nn.Module, x0: Tensor, schedule: Schedule, config: PriorConfig, generator: Generator) -> Tensor:
    """Mean of (PD(x_t, t) - v_t)² over a batch x0 (B, C, H, W), with a random level and fresh noise per picture."""
    t = torch.randint(config.t_max or schedule.steps, (len(x0),), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    x_t = schedule.q_sample(x0, t, eps).contiguous(memory_format=torch.channels_last)
    with autocast(x0.device, config.precision):
        v = net(x_t, t)
    return (v.to(x0.dtype) - schedule.velocity(x0, eps, t)).square().mean()


def _annealing(optimizer: torch.optim.Optimizer, config: PriorConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Cosine annealing from ``lr`` at the first step to ``lr_end`` after the last."""
    def rate(i: int) -> float:
        return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * i / config.steps)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: rate(i) / config.lr)
