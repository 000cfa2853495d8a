"""Phase 2 by diffusion EM, coarse to fine: image and kernel in turn, no network is trained.

Model: p(x) from PD, y = (x * k)↓s + n with n ~ N(0, sigma²). Given k, an E step walks the reverse diffusion with
a data step at every level (Zhu et al. 2023, DiffPIR); given x, an M step fits k (Laroche et al. 2024, fast
diffusion EM). Blind deconvolution's old rule, coarse to fine, keeps the start of the kernel harmless: first at
a small scale, where the prior bridges the gap and the kernel has few unknowns, then at the scale asked for.
"""

from __future__ import annotations

import math
from collections.abc import Generator as Iter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .degradation import Degradation, resample_kernel, to_canvas
from .diffusion import timesteps
from .kernels import centre_by_pixels, gaussian
from .patch_prior import PatchPrior
from .quadratic import data_step, fit_kernel, normal_equations
from .state import Phase2State


@dataclass(frozen=True)
class EmConfig:
    """Phase 2 by diffusion EM. The defaults were found on the development images (see the README).

    Attributes:
        coarse_scale: scale at which the kernel is found, at most the scale asked for.
        start_width: standard deviation of the Gaussian that the kernel starts from, in LR pixels.
        passes: EM passes at the coarse scale.
        steps: reverse diffusion steps of a pass.
        t_start: level that a pass starts from.
        t_kernel: the kernel is fitted at levels below this, where PD's estimate is sharp.
        noise_start, noise_end: sigma, the noise assumed in y (range [-1, 1]), falls geometrically from pass to
            pass; high while k is wrong, lest the image bend to it.
        prior_weight: lambda in rho_t = lambda · sigma² · ᾱ_t / (1 - ᾱ_t).
        ridge: weight of ||k||² in the M step, as a share of the normal matrix's mean diagonal.
        final_steps, final_t_start, final_noise: of the last pass, at the full scale with k fixed.
        cg_iterations: conjugate-gradient iterations of a data step.
    """

    coarse_scale: int = 2
    start_width: float = 1.25
    passes: int = 9
    steps: int = 6
    t_start: int = 300
    t_kernel: int = 120
    noise_start: float = 0.3
    noise_end: float = 0.07
    prior_weight: float = 2.0
    ridge: float = 1e-3
    final_steps: int = 10
    final_t_start: int = 200
    final_noise: float = 0.012
    cg_iterations: int = 15

    def __post_init__(self) -> None:
        for name in ('coarse_scale', 'passes', 'steps', 'final_steps', 'cg_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'em.{name} must be at least 1, got {getattr(self, name)}')
        for name in ('start_width', 'noise_start', 'noise_end', 'final_noise', 'prior_weight', 'ridge'):
            if getattr(self, name) <= 0:
                raise ValueError(f'em.{name} must be positive, got {getattr(self, name)}')
        for steps, start in (('steps', 't_start'), ('final_steps', 'final_t_start')):
            if getattr(self, start) + 1 < getattr(self, steps):
                raise ValueError(f'em.{start} = {getattr(self, start)} has no room for em.{steps} = '
                                 f'{getattr(self, steps)} steps')


def solve_em(y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig, generator: Generator,
             kernel: Tensor | None = None) -> Iterator[Phase2State]:
    """Estimate x and k from y; yields after every reverse diffusion step, the last state is the result.

    Args:
        y: LR image (1, 3, h, w) in [-1, 1].
        prior: PD with its schedule, fitted to y.
        degradation: the forward model at the full scale.
        config: see :class:`EmConfig`.
        generator: of all noise; on y's device.
        kernel: the known kernel (K, K); the coarse stage is left out then.
    """
    coarse_passes = 0 if kernel is not None else config.passes
    total = coarse_passes * config.steps + config.final_steps
    step = 0
    if kernel is None:
        for state in _find_kernel(y, prior, degradation, config, generator):
            step += 1
            yield Phase2State(step, total, *state)
            kernel = state[2]
    x = data_step(degradation, kernel, y, to_canvas(y, degradation), 0.02, config.cg_iterations)
    for t, x, _, residual in reverse_pass(x, kernel, y, prior, degradation, config, generator,
                                          config.final_t_start, config.final_steps, config.final_noise):
        step += 1
        yield Phase2State(step, total, t, x, kernel, {'residual': residual})


def _find_kernel(y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig,
                 generator: Generator) -> Iter[tuple, None, None]:
    """EM at the coarse scale; yields (t, x0_hat, kernel, losses) at the full scale."""
    scale = min(config.coarse_scale, degradation.scale)
    size = max(math.ceil(degradation.kernel_size * scale / degradation.scale), scale)
    coarse = Degradation(scale, size, degradation.border)
    kernel = gaussian(size, sigmas=config.start_width * scale).to(y)
    x = data_step(coarse, kernel, y, to_canvas(y, coarse), 0.05, config.cg_iterations)
    for i in range(config.passes):
        share = i / max(1, config.passes - 1)
        sigma = config.noise_start ** (1 - share) * config.noise_end ** share
        for t, x, x0_hat, residual in reverse_pass(x, kernel, y, prior, coarse, config, generator,
                                                   config.t_start, config.steps, sigma):
            if t < config.t_kernel:
                G, b = normal_equations(coarse, x0_hat, y)
                kernel = centre_by_pixels(fit_kernel(G, b, kernel, config.ridge))
            picture = F.interpolate(coarse.crop(x), scale_factor=degradation.scale / scale, mode='bicubic')
            yield t, picture, resample_kernel(kernel, coarse, degradation), {'residual': residual}


@torch.no_grad()
def reverse_pass(x: Tensor, kernel: Tensor, y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig,
                 generator: Generator, t_start: int, steps: int, sigma: float) -> Iter[tuple, None, None]:
    """E step: from x noised to ``t_start`` down to a posterior sample; yields (t, x0, PD's x0_hat, residual)."""
    schedule = prior.schedule
    levels = timesteps(t_start, steps)
    x_t = schedule.q_sample(x, levels[0], _noise(x, generator))
    for t, t_next in zip(levels, levels[1:]):
        x0_hat = prior.predict_x0(x_t, t)
        a = float(schedule.alphas_cumprod[t])
        x0 = data_step(degradation, kernel, y, x0_hat, config.prior_weight * sigma ** 2 * a / (1 - a),
                       config.cg_iterations)
        x_t = schedule.ddim_step(x_t, x0, t, t_next, _noise(x, generator), eta=1.0)
        residual = float((degradation.forward(x0, kernel) - y).square().mean())
        yield t, x0, x0_hat, residual


def _noise(x: Tensor, generator: Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
