"""Phase 2 by diffusion EM, coarse to fine: image and kernel in turn, no network is trained.

Model: p(x) from PD, y = (x * k)↓s + n with n ~ N(0, sigma²). Given k, an E step walks the reverse diffusion with
a data step at every level (Zhu et al. 2023, DiffPIR); given x, an M step fits k (Laroche et al. 2024, fast
diffusion EM). Blind deconvolution's old rule, coarse to fine, keeps the start of the kernel harmless:

1. The sketch, at scale 1: y is deblurred on its own grid, K is about 6 x 6. Its prior is a PD of its own, fitted to y
   at half size: there the blur is half as wide, so that it prefers patches sharper than y's (Michaeli & Irani 2013:
   patches of a scene recur across scales, and the smaller ones are sharper). The prior of y itself takes y's ghosts
   for content, and the kernel then falls into a dot.
2. The coarse stage, at scale 2, from the sketch's kernel and with the prior of y.
3. One pass at the full scale with the kernel fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .degradation import Degradation, resample_kernel, to_canvas
from .diffusion import noise_like, timesteps
from .kernels import centre_of_mass, gaussian, normalise, shift
from .patch_prior import PatchPrior
from .quadratic import data_step, fit_kernel, normal_equations
from .state import Phase2State

START_RHO = 0.03  # weight of the bicubic picture in the very first data step


@dataclass(frozen=True)
class EmConfig:
    """Phase 2 by diffusion EM. The defaults were found on the development images (see the README).

    Attributes:
        sketch_passes: EM passes at scale 1; 0 leaves the sketch out.
        sketch_noise_start, sketch_noise_end: as noise_start, noise_end below, for the sketch.
        sketch_share: gradient steps of the sketch's prior in Phase 1, as a share of ``prior.steps``; its batch is
            half of ``prior.batch``.
        coarse_scale: scale of the coarse stage, at most the scale asked for.
        support: the grid of both is this many times wider than the kernel asked for, so that a kernel that comes
            out off centre is not cut; it is centred, then cut, at the full scale.
        start_width: standard deviation of the Gaussian that the kernel starts from, in LR pixels.
        passes: EM passes at the coarse scale.
        steps: reverse diffusion steps of a pass.
        t_start: level that a pass starts from.
        t_kernel: the kernel is fitted at levels below this, where PD's estimate is sharp, and at a pass's last one
            in any case.
        noise_start, noise_end: sigma, the noise assumed in y (range [-1, 1]), falls geometrically from pass to
            pass; high while k is wrong, lest the image bend to it.
        prior_weight: lambda in rho_t = lambda · sigma² · ᾱ_t / (1 - ᾱ_t).
        ridge: weight of ||k||² in the M step, as a share of the normal matrix's mean diagonal.
        centre_power, centre_floor: the kernel is centred by the centre of mass of k^power, values below floor
            times its maximum left out.
        final_steps, final_t_start, final_noise: of the last pass, at the full scale with k fixed.
        cg_iterations: conjugate-gradient iterations of a data step.
    """

    sketch_passes: int = 14
    sketch_noise_start: float = 0.3
    sketch_noise_end: float = 0.05
    sketch_share: float = 0.5
    coarse_scale: int = 2
    support: float = 4 / 3
    start_width: float = 1.25
    passes: int = 6
    steps: int = 6
    t_start: int = 300
    t_kernel: int = 120
    noise_start: float = 0.1
    noise_end: float = 0.07
    prior_weight: float = 2.0
    ridge: float = 1e-3
    centre_power: float = 0.5
    centre_floor: float = 0.03
    final_steps: int = 10
    final_t_start: int = 200
    final_noise: float = 0.012
    cg_iterations: int = 15

    def __post_init__(self) -> None:
        for name in ('coarse_scale', 'passes', 'steps', 'final_steps', 'cg_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'em.{name} must be at least 1, got {getattr(self, name)}')
        if self.sketch_passes < 0:
            raise ValueError(f'em.sketch_passes must not be negative, got {self.sketch_passes}')
        for name in ('sketch_noise_start', 'sketch_noise_end', 'sketch_share', 'start_width', 'noise_start',
                     'noise_end', 'final_noise', 'prior_weight', 'ridge', 'centre_power'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must be positive and finite, got {getattr(self, name)}')
        if not 1 <= self.support < math.inf or not 0 <= self.centre_floor < 1:
            raise ValueError(f'em.support must be at least 1 and em.centre_floor in [0, 1), got {self.support}, '
                             f'{self.centre_floor}')
        for steps, start in (('steps', 't_start'), ('final_steps', 'final_t_start')):
            if getattr(self, start) + 1 < getattr(self, steps):
                raise ValueError(f'em.{start} = {getattr(self, start)} has no room for em.{steps} = '
                                 f'{getattr(self, steps)} steps')


def solve_em(y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig, generator: Generator,
             kernel: Tensor | None = None, sketch_prior: PatchPrior | None = None) -> Iterator[Phase2State]:
    """Estimate x and k from y; yields after every reverse diffusion step, the last state is the result.

    Args:
        y: LR image (1, 3, h, w) in [-1, 1].
        prior: PD with its schedule, fitted to y.
        degradation: the forward model at the full scale.
        config: see :class:`EmConfig`.
        generator: of all noise; on y's device.
        kernel: the known kernel (K, K); only the last pass is done then.
        sketch_prior: PD fitted to y at half size; None leaves the sketch out.

    Raises:
        ValueError: a pass starts at a level that the prior's schedule does not have.
    """
    for name in ('t_start', 'final_t_start'):
        if getattr(config, name) >= prior.schedule.steps:
            raise ValueError(f'em.{name} must be below the {prior.schedule.steps} levels of the prior, got '
                             f'{getattr(config, name)}')
    sketch_passes = config.sketch_passes if sketch_prior is not None else 0
    em_steps = 0 if kernel is not None else (sketch_passes + config.passes) * config.steps
    total = em_steps + config.final_steps
    if kernel is None:
        search = find_kernel(y, prior, degradation, config, generator, sketch_prior)
        for step, (t, picture, kernel, residual) in enumerate(search, 1):
            yield Phase2State(step, total, t, picture, kernel, {'residual': residual})
    start = data_step(degradation, kernel, y, to_canvas(y, degradation), START_RHO, config.cg_iterations)
    walk = reverse_pass(start, kernel, y, prior, degradation, config, generator,
                        config.final_t_start, config.final_steps, config.final_noise)
    for step, (t, x, _) in enumerate(walk, em_steps + 1):
        yield Phase2State(step, total, t, x, kernel, {'residual': _residual(degradation, x, kernel, y)})


def find_kernel(y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig, generator: Generator,
                sketch_prior: PatchPrior | None = None) -> Iterator[tuple[int, Tensor, Tensor, float]]:
    """Sketch and coarse stage; yields (t, x0, k, residual), x0 and k carried over to the full scale."""
    stages = [(min(config.coarse_scale, degradation.scale), prior, config.passes, config.noise_start, config.noise_end)]
    if sketch_prior is not None and config.sketch_passes:
        stages.insert(0, (1, sketch_prior, config.sketch_passes, config.sketch_noise_start, config.sketch_noise_end))
    coarse = None
    for scale, stage_prior, passes, noise_start, noise_end in stages:
        finer = coarse_degradation(scale, degradation, config.support)
        if coarse is None:
            kernel = gaussian(finer.kernel_size, sigmas=config.start_width * scale).to(y)
        else:
            kernel = resample_kernel(kernel, coarse, finer)
        coarse = finer
        for t, x, fitted in em_passes(y, kernel, stage_prior, coarse, config, generator,
                                      geometric(noise_start, noise_end, passes)):
            yield (t, _enlarge(x, coarse, degradation), _carry_over(fitted, coarse, degradation, config),
                   _residual(coarse, x, fitted, y))
        kernel = fitted


def coarse_degradation(scale: int, full: Degradation, support: float) -> Degradation:
    """The forward model at a smaller scale, its kernel grid ``support`` times as wide, its centre on LR pixels'."""
    size = full.kernel_size * scale / full.scale * support
    return Degradation(scale, scale + 2 * math.ceil((size - scale) / 2), full.border)


def geometric(first: float, last: float, count: int) -> list[float]:
    """``count`` values from ``first`` to ``last``, each the same multiple of the one before."""
    return [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]


def em_passes(y: Tensor, kernel: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig,
              generator: Generator, sigmas: list[float]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """One EM pass for each assumed noise; yields (t, x0, k) after every reverse diffusion step.

    E steps of a pass all use the kernel that it began with; the M steps' last fit goes to the next pass. They take
    PD's estimate *before* the data step, since the one after confirms the kernel it was made with.
    """
    x = data_step(degradation, kernel, y, to_canvas(y, degradation), START_RHO, config.cg_iterations)
    last = timesteps(config.t_start, config.steps)[-2]
    for sigma in sigmas:
        fitted, start = kernel, x
        for t, x, x0_hat in reverse_pass(start, kernel, y, prior, degradation, config, generator,
                                         config.t_start, config.steps, sigma):
            if t < config.t_kernel or t == last:
                fitted = fit_kernel(*normal_equations(degradation, x0_hat, y), fitted, config.ridge)
            yield t, x, fitted
        kernel = fitted


@torch.no_grad()
def reverse_pass(x: Tensor, kernel: Tensor, y: Tensor, prior: PatchPrior, degradation: Degradation, config: EmConfig,
                 generator: Generator, t_start: int, steps: int, sigma: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """E step: from x noised to ``t_start`` down to a sample of p(x | y, k).

    At each level PD's estimate x0_hat is pulled towards y by the data step, and the next level is drawn from it
    (ancestral noise). Yields (t, x0, x0_hat), the estimate after and before the data step.
    """
    levels = timesteps(t_start, steps)
    x_t = prior.schedule.q_sample(x, levels[0], noise_like(x, generator))
    for t, t_next in itertools.pairwise(levels):
        x0_hat = prior.predict_x0(x_t, t)
        a = float(prior.schedule.alphas_cumprod[t])
        rho = config.prior_weight * sigma ** 2 * a / (1 - a)
        x0 = data_step(degradation, kernel, y, x0_hat, rho, config.cg_iterations)
        x_t = prior.schedule.ddim_step(x_t, x0, t, t_next, noise_like(x, generator), eta=1.0)
        yield t, x0, x0_hat


def _carry_over(kernel: Tensor, coarse: Degradation, degradation: Degradation, config: EmConfig) -> Tensor:
    """The coarse kernel on the full scale's grid, centred there, cut to K x K.

    The shift between x and k cannot be seen in y; the convention is that k's centre of mass lies in the middle.
    EM draws a kernel's weak parts too faint, which pulls the centre of mass towards the strong ones. The centre
    of √k undoes most of that (README, "What was tried").
    """
    extra = math.ceil((config.support - 1) * degradation.kernel_size / 2)
    wide = Degradation(degradation.scale, degradation.kernel_size + 2 * extra, degradation.border)
    k = resample_kernel(kernel, coarse, wide)
    weight = torch.where(k > config.centre_floor * k.max(), k, 0) ** config.centre_power
    offset = (wide.kernel_size - 1) / 2 - centre_of_mass(weight)
    k = shift(k, (float(offset[0]), float(offset[1])))
    return normalise(k[extra:extra + degradation.kernel_size, extra:extra + degradation.kernel_size])


def _enlarge(x: Tensor, coarse: Degradation, degradation: Degradation) -> Tensor:
    """The coarse estimate on the full scale's canvas, for those who watch."""
    before, after = degradation.margin if degradation.border == 'valid' else (0, 0)
    frame = coarse.crop(x)
    size = [n // coarse.scale * degradation.scale for n in frame.shape[-2:]]
    frame = F.interpolate(frame, size=size, mode='bicubic')
    return F.pad(frame, (before, after, before, after), mode='replicate')


def _residual(degradation: Degradation, x: Tensor, kernel: Tensor, y: Tensor) -> float:
    """MSE(y, (x * k)↓s)."""
    return float((degradation.forward(x, kernel) - y).square().mean())
