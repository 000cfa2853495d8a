"""Phase 2 by diffusion EM, coarse to fine: image and kernel in turn, no network is trained.

Model: p(x) from a diffusion prior, y = (x * k)↓s + n with n ~ N(0, sigma²). Given k, an E step walks the reverse
diffusion with a data step at every level (Zhu et al. 2023, DiffPIR); given x, an M step fits k (Laroche et al. 2024,
fast diffusion EM). Blind deconvolution's old rule, coarse to fine, keeps the start of the kernel harmless:

1. The sketch, at scale 1: y is deblurred on its own grid, K is about 6 x 6.
2. The coarse stage at scale 2, and the fine one at the full scale, each from the kernel before.
3. The final pass with the kernel fixed: plug-and-play, half-quadratic splitting without noise (Zhang et al. 2021,
   DPIR), which comes near the mean of many samples of p(x | y, k) at the price of one; or that mean itself.

EM creeps where a kernel's weak parts have to grow, so each M step goes further than its fit (over-relaxation,
Salakhutdinov & Roweis 2003). At the full scale it remembers the passes before (stochastic approximation EM, Delyon
et al. 1999) and trusts LR pixels less that the prior's estimate does not explain (weights of Student's t), such as
those of fine texture. An M step without the windows' covariance lets wide kernels break up into dots on some pictures;
with it, kernels of fine parts grow too wide on others. The coarse stage finds out which of the two there is, by what
each makes of the likelihood of y (``likelihood``).

Which prior finds the kernel decides. EM moves away even from the true kernel if the prior likes blurred patches as
much as sharp ones, and PD's, fitted to y, does: y is blurred. See ``texture_prior`` for the one that does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .degradation import Degradation, resample_kernel, to_canvas
from .diffusion import Prior, noise_like, timesteps
from .kernels import centre_of_mass, gaussian, normalise, shift
from .likelihood import surprise
from .noise import estimate_noise
from .quadratic import covariance_lags, data_step, fit_kernel, normal_equations, window_covariance
from .state import EmPlace, Phase2State

START_RHO = 0.03  # weight of the bicubic picture in the very first data step
UNCERTAINTIES = (0.0, 1.0, 2.0)  # that are tried where none is given
KERNEL_PRIORS = ('textures', 'internal')
FINAL_PRIORS = ('tuned', 'both', 'textures', 'internal')


@dataclass(frozen=True)
class EmConfig:
    """Phase 2 by diffusion EM. The defaults were found on the development images (see the README).

    Attributes:
        kernel_prior: what the kernel is found with: ``textures``, the prior that ships with the package, or
            ``internal``, PD fitted to y at half size, where the blur is half as wide: nothing but y is used then.
        final_prior: of the final passes: ``textures``, ``internal`` (PD fitted to y), or the mean of two estimates:
            ``tuned``, of the texture prior as it ships and trained on with y, or ``both``, of PD and the texture prior.
        kernel_side: the kernel is found on the square piece of y of this side (LR pixels) that has the strongest
            edges; 0 for all of y.
        support: the kernel's grid is this many times wider than the one asked for while it is found, so that a
            kernel that comes out off centre is not cut; it is centred, then cut, at the end.
        start_width: standard deviation of the Gaussian that the kernel starts from, in LR pixels.
        sketch_passes, coarse_passes, fine_passes: EM passes at scale 1, at scale 2 and at the full scale.
        sketch_noise_start, sketch_noise_end, coarse_…, fine_…: sigma, the noise assumed in y (range [-1, 1]), falls
            geometrically from pass to pass; high while k is wrong, lest the image bend to it.
        steps: reverse diffusion steps of a pass.
        t_start: level that a pass starts from.
        t_power: how the levels gather at the low end, see :func:`~.diffusion.timesteps`.
        kernel_levels: the M step takes the prior's estimates of the pass's result, noised anew to this many last
            levels of the pass.
        over_relaxation: the kernel goes this many times as far as the M step's fit is away, but in a stage's last
            pass.
        memory: at the full scale, weight of the last pass's normal equations in those of the next.
        outlier: at the full scale, the residual (range [-1, 1]) above which an LR pixel counts less in the M step; 0:
            all count alike.
        prior_weight: lambda in rho_t = lambda · sigma² · ᾱ_t / (1 - ᾱ_t).
        uncertainty: the M step of EM is about E[UᵀU | y], the windows' covariance included, without which frequencies
            that the estimate lacks come out too strong in the kernel. In its place stands, so many times, the
            covariance that the prior leaves open at the levels of the M step. How often is right depends on picture and
            kernel. None: found out by itself, the coarse stage is done with 0, 1 … 2 times as long as that makes y
            likelier (:func:`~.likelihood.surprise`).
        ridge: weight of ||k||² in the M step, as a share of the normal matrix's mean diagonal.
        smoothness: likewise of the kernel's :func:`~.quadratic.roughness`, at the full scale.
        centre_power, centre_floor: the kernel is centred by the centre of mass of k^power, values below floor
            times its maximum left out.
        final_samples: 0: one final pass without noise. Else the result is the mean of this many samples of
            p(x | y, k): one is the sharpest, the mean of many has the least error.
        final_steps, final_t_start, final_noise: of each final pass.
        noise_floor: the noise found in y, times this, is added to every sigma (root of the sum of squares).
        cg_iterations: conjugate-gradient iterations of a data step.
    """

    kernel_prior: str = 'textures'
    final_prior: str = 'tuned'
    kernel_side: int = 192
    support: float = 4 / 3
    start_width: float = 1.25
    sketch_passes: int = 12
    sketch_noise_start: float = 0.3
    sketch_noise_end: float = 0.03
    coarse_passes: int = 12
    coarse_noise_start: float = 0.1
    coarse_noise_end: float = 0.02
    fine_passes: int = 5
    fine_noise_start: float = 0.03
    fine_noise_end: float = 0.006
    steps: int = 6
    t_start: int = 300
    t_power: float = 1.3
    kernel_levels: int = 2
    over_relaxation: float = 2.0
    memory: float = 0.5
    outlier: float = 0.02
    prior_weight: float = 1.0
    uncertainty: float | None = None
    ridge: float = 1e-3
    smoothness: float = 0.01
    centre_power: float = 0.9
    centre_floor: float = 0.04
    final_samples: int = 0
    final_steps: int = 16
    final_t_start: int = 200
    final_noise: float = 0.006
    noise_floor: float = 1.0
    cg_iterations: int = 15

    def __post_init__(self) -> None:
        for name, known in (('kernel_prior', KERNEL_PRIORS), ('final_prior', FINAL_PRIORS)):
            if getattr(self, name) not in known:
                raise ValueError(f'em.{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
        for name in ('sketch_passes', 'steps', 'kernel_levels', 'final_steps', 'cg_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'em.{name} must be at least 1, got {getattr(self, name)}')
        for name in ('coarse_passes', 'fine_passes', 'kernel_side', 'smoothness', 'noise_floor', 'outlier',
                     'final_samples', 'uncertainty'):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must not be negative, got {getattr(self, name)}')
        for name in ('sketch_noise_start', 'sketch_noise_end', 'coarse_noise_start', 'coarse_noise_end',
                     'fine_noise_start', 'fine_noise_end', 'start_width', 'final_noise', 'prior_weight', 'ridge',
                     'centre_power', 't_power'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must be positive and finite, got {getattr(self, name)}')
        if not 1 <= self.support < math.inf or not 0 <= self.centre_floor < 1:
            raise ValueError(f'em.support must be at least 1 and em.centre_floor in [0, 1), got {self.support}, '
                             f'{self.centre_floor}')
        if not 1 <= self.over_relaxation < math.inf or not 0 <= self.memory < 1:
            raise ValueError(f'em.over_relaxation must be at least 1 and em.memory in [0, 1), got '
                             f'{self.over_relaxation}, {self.memory}')
        for steps, start in (('steps', 't_start'), ('final_steps', 'final_t_start')):
            if getattr(self, start) + 1 < getattr(self, steps):
                raise ValueError(f'em.{start} = {getattr(self, start)} has no room for em.{steps} = '
                                 f'{getattr(self, steps)} steps')


@dataclass(frozen=True)
class Stage:
    """One scale of the search for the kernel: an EM pass for each of ``sigmas``."""

    degradation: Degradation
    sigmas: list[float]
    smoothness: float
    uncertainty: float = 0.0
    uncertainties: tuple[float, ...] = (0.0,)  # that are to be tried; none: the one found by the stage before
    outlier: float = 0.0
    memory: float = 0.0
    whole_shifts: bool = False  # between passes the kernel is centred by whole pixels, or to a fraction of one


def solve_em(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator,
             kernel: Tensor | None = None, kernel_prior: Prior | None = None,
             resume: Mapping[str, Any] | None = None) -> Iterator[Phase2State]:
    """Estimate x and k from y; yields after every reverse diffusion step, the last state is the result.

    Args:
        y: LR image (1, 3, h, w) in [-1, 1].
        prior: that of the final passes.
        degradation: the forward model at the full scale.
        config: see :class:`EmConfig`.
        generator: of all noise; on y's device.
        kernel: the known kernel (K, K); only the final passes are done then.
        kernel_prior: what the kernel is found with; default ``prior``.
        resume: a state's ``snapshot()``, to go on behind that step; ``generator`` must be as it was then.

    Raises:
        ValueError: a pass starts at a level that the prior's schedule does not have.
    """
    kernel_prior = kernel_prior or prior
    check_levels(config, prior, kernel_prior)
    noise = config.noise_floor * estimate_noise(y)
    total = (0 if kernel is not None else search_steps(config)) + final_steps(config)
    place = EmPlace.at(resume, y.device)
    if kernel is None:
        yield from search(y, kernel_prior, degradation, config, generator, noise, place, total)
        kernel = place.found
    yield from final_passes(y, prior, degradation, kernel, config, generator, noise, place, total)


def check_levels(config: EmConfig, prior: Prior, kernel_prior: Prior) -> None:
    """Refuse passes that start at a level that their prior's schedule does not have."""
    for name, used in (('t_start', kernel_prior), ('final_t_start', prior)):
        if getattr(config, name) >= used.schedule.steps:
            raise ValueError(f'em.{name} must be below the {used.schedule.steps} levels of the prior, got '
                             f'{getattr(config, name)}')


def search_steps(config: EmConfig, sketch: bool = True) -> int:
    """Steps of the search for a kernel at most, with its first stage or without."""
    stages = [config.coarse_passes, config.fine_passes]
    tried = (len(_uncertainties(config)) - 1) * next(filter(None, stages), 0)
    return config.steps * (sketch * config.sketch_passes + sum(stages) + tried)


def final_steps(config: EmConfig) -> int:
    """Steps of the final passes."""
    return max(1, config.final_samples) * config.final_steps


def search(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator, noise: float,
           place: EmPlace, total: int, start: Tensor | None = None) -> Iterator[Phase2State]:
    """:func:`find_kernel` in a run of ``total`` steps, whose place it keeps; ``place.found`` is the kernel."""
    for t, picture, found, residual in find_kernel(y, prior, degradation, config, generator, noise, place, start):
        place.step, place.found = place.step + 1, found
        yield Phase2State(place.step, total, t, picture, found, {'residual': residual}, place.snapshot)


def final_passes(y: Tensor, prior: Prior, degradation: Degradation, kernel: Tensor, config: EmConfig,
                 generator: Generator, noise: float, place: EmPlace, total: int) -> Iterator[Phase2State]:
    """The picture under a kernel that stays, whatever ``degradation`` takes for one; ends a run of ``total`` steps."""
    levels = timesteps(config.final_t_start, config.final_steps, config.t_power)
    for sample in range(place.passes, max(1, config.final_samples)):
        x = first_estimate(y, kernel, degradation, config) if place.x is None else place.x
        walk = reverse_pass(x, kernel, y, prior, degradation, config, generator, levels[place.steps:],
                            math.hypot(config.final_noise, noise), 'ancestral' if config.final_samples else 'none',
                            place)
        for t, x in walk:
            place.step += 1
            mean = (place.before + x).div_(sample + 1)
            yield Phase2State(place.step, total, t, mean, kernel,
                              {'residual': _residual(degradation, mean, kernel, y)}, place.snapshot)
        place.before = place.before + place.x
        place.end_pass(sample + 1)
        place.x = place.x_t = None


def first_estimate(y: Tensor, kernel: Tensor, degradation: Degradation, config: EmConfig) -> Tensor:
    """The bicubic picture after a first data step."""
    return data_step(degradation, kernel, y, to_canvas(y, degradation), START_RHO, config.cg_iterations)


def kernel_stages(full: Degradation, config: EmConfig, noise: float = 0.0) -> list[Stage]:
    """Sketch, coarse and fine stage, those without passes left out; the first behind the sketch tries."""
    stages, tried = [], _uncertainties(config)
    for name, scale in (('sketch', 1), ('coarse', min(2, full.scale)), ('fine', full.scale)):
        first, last = (getattr(config, f'{name}_noise_{end}') for end in ('start', 'end'))
        sigmas = [math.hypot(sigma, noise) for sigma in geometric(first, last, getattr(config, f'{name}_passes'))]
        if sigmas:  # the same roughness costs less where a kernel has fewer pixels
            stage = Stage(scaled(full, scale, config.support), sigmas, config.smoothness * (scale / full.scale) ** 4)
            if name != 'sketch':
                stage = replace(stage, uncertainties=tried)
                tried = ()
            if name == 'fine':
                outlier = math.hypot(config.outlier, noise) if config.outlier else 0.0
                stage = replace(stage, outlier=outlier, memory=config.memory, whole_shifts=True)
            stages.append(stage)
    return stages


def _uncertainties(config: EmConfig) -> tuple[float, ...]:
    return UNCERTAINTIES if config.uncertainty is None else (config.uncertainty,)


def scaled(full: Degradation, scale: int, support: float) -> Degradation:
    """The forward model at another scale, its kernel grid ``support`` times as wide.

    Its centre lies on the LR pixel's; at the full scale where ``full`` has it, so that a kernel can be cut to its size.
    """
    if scale == full.scale:
        return Degradation(scale, full.kernel_size + 2 * math.ceil((support - 1) * full.kernel_size / 2 - 1e-9),
                           full.border)
    size = full.kernel_size * scale / full.scale * support
    return Degradation(scale, scale + 2 * math.ceil((size - scale) / 2 - 1e-9), full.border)


def geometric(first: float, last: float, count: int) -> list[float]:
    """``count`` values from ``first`` to ``last``, each the same multiple of the one before."""
    return [first * (last / first) ** (i / max(1, count - 1)) for i in range(count)]


def find_kernel(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator,
                noise: float = 0.0, place: EmPlace | None = None,
                start: Tensor | None = None) -> Iterator[tuple[int, Tensor, Tensor, float]]:
    """All stages on the most informative piece of y, from ``place`` on; yields (t, x0, k, residual) after every step.

    With a kernel ``start`` (K, K) it begins from that one, at the coarse stage. x0 (on the whole canvas, bicubic around
    the piece; renewed after every pass) and k are carried over to the full scale.
    """
    top, left, height, width = informative_piece(y, config.kernel_side)
    piece = y[..., top:top + height, left:left + width]
    canvas = to_canvas(y, degradation)
    place = EmPlace() if place is None else place
    stages = kernel_stages(degradation, config, noise)[0 if start is None else 1:]
    for number in range(place.stage, len(stages)):
        stage, grid = stages[number], stages[number].degradation
        if place.start is None and number == 0 and start is None:
            place.start = gaussian(grid.kernel_size, sigmas=config.start_width * grid.scale).to(y)
        elif place.start is None:
            kernel, before = (place.kernel, stages[number - 1].degradation) if number else (start, degradation)
            kernel = resample_kernel(kernel, before, grid)
            place.start = shift(kernel, _way_to_middle(kernel, config, whole=False))
        picture = canvas
        for t, x, fitted in _trials(piece, prior, stage, config, generator, noise, place):
            if place.steps == 0:
                picture = paste(x, grid, canvas, degradation, (top, left))
            yield t, picture, _carry_over(fitted, grid, degradation, config), _residual(grid, x, fitted, piece)
        place.end_stage()


def _trials(y: Tensor, prior: Prior, stage: Stage, config: EmConfig, generator: Generator, noise: float,
            place: EmPlace) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The stage's passes with each of its uncertainties, as long as that makes y likelier; ``place`` keeps the best."""
    tried = stage.uncertainties or (place.uncertainty,)
    level = timesteps(config.t_start, config.steps, config.t_power)[-1 - config.kernel_levels:][0]
    while place.trial < len(tried):
        if place.x is None:
            place.kernel = place.start
        one = replace(stage, uncertainty=tried[place.trial])
        yield from em_passes(y, place.kernel, prior, one, config, generator, place)
        found = math.inf if len(tried) == 1 else surprise(y, place.x, place.kernel, prior, stage.degradation, level,
                                                          generator, noise)
        if not place.end_trial(found, tried[place.trial]):
            place.step += config.steps * len(stage.sigmas) * (len(tried) - place.trial)  # the others count as done
            break


def informative_piece(y: Tensor, side: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the piece of at most ``side`` pixels square with the largest gradient energy."""
    height, width = ((min(side, n) if side else n) for n in y.shape[-2:])
    grey = y.mean(1, keepdim=True)
    energy = F.pad(grey.diff(dim=-1) ** 2, (0, 1)) + F.pad(grey.diff(dim=-2) ** 2, (0, 0, 0, 1))
    mass = F.pad(energy[0, 0].double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # integral image
    sums = mass[height:, width:] - mass[:-height, width:] - mass[height:, :-width] + mass[:-height, :-width]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1], height, width


@torch.no_grad()
def em_passes(y: Tensor, kernel: Tensor, prior: Prior, stage: Stage, config: EmConfig, generator: Generator,
              place: EmPlace | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """One EM pass for each assumed noise of a stage, from ``place`` on; yields (t, x0, k) after every step of them.

    E steps of a pass all use the kernel that it began with; the M step fits the next one to what the prior makes of the
    pass's result. That itself would confirm the kernel that it was made with: it fits y.
    """
    degradation = stage.degradation
    levels = timesteps(config.t_start, config.steps, config.t_power)
    place = EmPlace() if place is None else place
    x = place.x
    if x is None:
        x = first_estimate(y, kernel, degradation, config)
    remembered = place.remembered  # of the passes before, as long as the picture has not been moved since
    for number, sigma in enumerate(stage.sigmas[place.passes:], place.passes + 1):
        walk = reverse_pass(x, kernel, y, prior, degradation, config, generator, levels[place.steps:], sigma, 'fresh',
                            place)
        for t, x in walk:
            if place.steps == config.steps:
                earlier = tuple(stage.memory * part for part in remembered)
                remembered = _equations(x, kernel, y, prior, stage, levels[-1 - config.kernel_levels:-1], generator,
                                        earlier)
                fitted = fit_kernel(*remembered, kernel, config.ridge, stage.smoothness)
                if number == len(stage.sigmas):  # a stage ends with the fit itself
                    kernel = fitted
                else:
                    kernel = normalise((kernel + config.over_relaxation * (fitted - kernel)).clamp_min(0))
                    way = _way_to_middle(kernel, config, stage.whole_shifts)
                    if any(way):
                        kernel, x = shift(kernel, way), _moved(x, way)
                        remembered = 0.0, 0.0
                place.end_pass(number)
            place.x, place.kernel, place.remembered = x, kernel, remembered
            yield t, x, kernel


def _equations(x: Tensor, kernel: Tensor, y: Tensor, prior: Prior, stage: Stage, levels: list[int],
               generator: Generator, earlier: tuple) -> tuple[Tensor, Tensor]:
    """``earlier`` (G, b) plus the normal equations of what the prior makes of x, noised anew to each of ``levels``.

    To G what the prior leaves open is added (:func:`~.quadratic.covariance_lags`).
    """
    G, b = earlier
    for t in levels:
        noise = noise_like(x, generator)
        x0_hat = prior.predict_x0(prior.schedule.q_sample(x, t, noise), t)
        weights = robust_weights(stage.degradation.forward(x0_hat, kernel) - y, stage.outlier)
        more_G, more_b = normal_equations(stage.degradation, x0_hat, y, weights)
        if stage.uncertainty:
            a = float(prior.schedule.alphas_cumprod[t])
            lags = covariance_lags(noise, x0_hat - x, math.sqrt((1 - a) / a))
            more_G = more_G + stage.uncertainty * window_covariance(lags, stage.degradation.kernel_size)
        G, b = G + more_G, b + more_b
    return G, b


def robust_weights(residual: Tensor, scale: float) -> Tensor | None:
    """Student's t (one degree of freedom): 1 / (1 + r² / scale²) of (B, C, h, w), r² the mean over C, as (B, 1, h, w).

    None at scale 0: all pixels count alike.
    """
    return 1 / (1 + residual.square().mean(1, keepdim=True) / scale ** 2) if scale else None


@torch.no_grad()
def reverse_pass(x: Tensor, kernel: Tensor, y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig,
                 generator: Generator, levels: list[int], sigma: float, noise: str = 'ancestral',
                 place: EmPlace | None = None) -> Iterator[tuple[int, Tensor]]:
    """E step: from x noised to the first of ``levels`` down to an estimate of x given y and k.

    At each level the prior's estimate x0_hat is pulled towards y by the data step; the next level is made of that by
    ``noise``: ``ancestral``, which draws a sample of p(x | y, k), ``fresh``, all of it new, or ``none``: what the prior
    takes for noise then is the estimate's own error. Yields (t, x0), x0 after the data step. A pass that was left is
    gone on with by giving its ``place``, its last x and the levels that are left.
    """
    place = EmPlace() if place is None else place
    x_t = place.x_t
    for t, t_next in itertools.pairwise(levels):
        if x_t is None or noise != 'ancestral':
            x_t = prior.schedule.q_sample(x, t, 0.0 if noise == 'none' else noise_like(x, generator))
        a = float(prior.schedule.alphas_cumprod[t])
        rho = config.prior_weight * sigma ** 2 * a / (1 - a)
        x = data_step(degradation, kernel, y, prior.predict_x0(x_t, t), rho, config.cg_iterations)
        if noise == 'ancestral':
            x_t = prior.schedule.ddim_step(x_t, x, t, t_next, noise_like(x, generator), eta=1.0)
            place.x_t = x_t
        place.x, place.steps = x, place.steps + 1
        yield t, x


def _moved(x: Tensor, way: tuple[float, float]) -> Tensor:
    """x moved by (dy, dx): the kernel moves likewise, then y stays as it is.

    By a fraction of a pixel it is bilinear: that blurs a little, so it is for passes that others follow.
    """
    for dim, d in zip((-2, -1), way):
        part = d - math.floor(d)
        x = (1 - part) * x.roll(math.floor(d), dim) + part * x.roll(math.floor(d) + 1, dim)
    return x


def _way_to_middle(kernel: Tensor, config: EmConfig, whole: bool) -> tuple[float, float]:
    """(dy, dx) that brings the kernel's centre to the middle of its grid; in whole pixels if asked for.

    The shift between x and k cannot be seen in y; the convention is that k's centre of mass lies in the middle.
    EM draws a kernel's weak parts too faint, which pulls the centre of mass towards the strong ones. The centre
    of a power of k below 1 undoes some of that (README, "What was tried").
    """
    weight = torch.where(kernel > config.centre_floor * kernel.max(), kernel, 0) ** config.centre_power
    dy, dx = (float(d) for d in (len(kernel) - 1) / 2 - centre_of_mass(weight))
    return (float(round(dy)), float(round(dx))) if whole else (dy, dx)


def _carry_over(kernel: Tensor, grid: Degradation, degradation: Degradation, config: EmConfig) -> Tensor:
    """The kernel of a stage on the full scale's grid, centred there, cut to K x K."""
    wide = scaled(degradation, degradation.scale, config.support)
    extra = (wide.kernel_size - degradation.kernel_size) // 2
    k = resample_kernel(kernel, grid, wide)
    k = shift(k, _way_to_middle(k, config, whole=False))
    return normalise(k[extra:extra + degradation.kernel_size, extra:extra + degradation.kernel_size])


def paste(x: Tensor, grid: Degradation, canvas: Tensor, degradation: Degradation, at: tuple[int, int]) -> Tensor:
    """``canvas`` with a stage's estimate x of the piece at LR pixel ``at`` put in, enlarged, for those who watch."""
    frame = grid.crop(x)
    s = degradation.scale
    size = [n // grid.scale * s for n in frame.shape[-2:]]
    before = degradation.margin[0] if degradation.border == 'valid' else 0
    top, left = (n * s + before for n in at)
    canvas = canvas.clone()
    canvas[..., top:top + size[0], left:left + size[1]] = F.interpolate(frame, size=size, mode='bicubic')
    return canvas


def _residual(degradation: Degradation, x: Tensor, kernel: Tensor, y: Tensor) -> float:
    """MSE(y, (x * k)↓s)."""
    return float((degradation.forward(x, kernel) - y).square().mean())
