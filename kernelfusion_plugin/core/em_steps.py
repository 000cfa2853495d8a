"""The two steps of diffusion EM, and the passes that alternate between them: E, x given k; M, k given x."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import to_rgb, to_ycbcr
from .degradation import Degradation, to_canvas
from .diffusion import noise_like
from .em_config import EmConfig
from .em_state import EmPlace, EmProblem
from .frame import Frame
from .kernel_align import centre_of_mass, normalise, shift
from .kernels import gaussian
from .noise import Sigma
from .orientations import predict_turned
from .overexposure import Highlights, away_from, reach_of
from .quadratic import covariance_lags, data_step, fit_kernel, normal_equations, window_covariance
from .stages import Stage

FRAMED_POWER = 0.9  # takes the place of centre_power where y's frame is used, which weighs faint parts anew
START_RHO = 0.03  # weight of the bicubic picture in the very first data step
OPEN_AREA = 8.0  # LR pixels: effective area of a kernel under which y leaves as much open as the prior does
OPEN_POWER = 1.5  # how that grows with the area
MOST_OPEN = 3.0
DENSITY_WIDTH = 0.75  # LR pixels: standard deviation of the Gaussian that measures how dense a kernel is


@torch.no_grad()
def em_passes(problem: EmProblem, stage: Stage, place: EmPlace) -> Iterator[tuple[int, Tensor, Tensor]]:
    """One EM pass for each assumed noise of a stage, from ``place`` on; yields (t, x0, k) after each step of a pass.

    All E steps of a pass use the kernel that it began with; the M step ends the pass. ``place.kernel`` is the kernel
    that the passes begin with, on the stage's grid, and then the one found.
    """
    problem = replace(problem, degradation=stage.degradation)
    if place.x is None:
        place.x = first_estimate(problem, place.kernel)
    for sigma in stage.sigmas[place.passes:]:
        for t, _ in reverse_pass(problem, place.kernel, sigma, problem.config.levels, 'fresh', place):
            if place.steps == problem.config.steps:
                m_step(problem, stage, place)
                place.end_pass()
            yield t, place.x, place.kernel


@torch.no_grad()
def reverse_pass(problem: EmProblem, kernel: Tensor, sigma: Sigma, levels: list[int], renoising: str, place: EmPlace,
                 turns: bool = False) -> Iterator[tuple[int, Tensor]]:
    """E step: from ``place.x``, noised to the first of ``levels``, down to an estimate of x given y and k.

    At each level the data step pulls the prior's estimate x0_hat towards y. Yields (t, x0), x0 after the data step.

    Args:
        problem: at the scale of the kernel.
        kernel: k, as the degradation takes it.
        sigma: noise assumed in y.
        levels: diffusion times, down to the final -1; those of the ``place.steps`` first steps are done.
        renoising: how the next level's x_t is made from x0: ``ancestral`` draws a sample of p(x | y, k), ``fresh`` adds
            entirely new noise, ``none`` adds none: what the prior then takes for noise is the estimate's own error.
        place: has the estimate to begin with; keeps the latest, and counts the steps.
        turns: the prior sees the picture in another orientation at each step.
    """
    schedule, x, x_t = problem.prior.schedule, place.x, place.x_t
    highlights = Highlights.of(problem.y, problem.white, problem.degradation)
    for t, t_next in itertools.pairwise(levels[place.steps:]):
        shown, beyond = highlights.split(x)
        if x_t is None or renoising != 'ancestral':
            x_t = schedule.q_sample(shown, t, 0.0 if renoising == 'none' else noise_like(x, problem.generator))
        x0_hat = predict_turned(problem.prior, x_t, t, place.steps if turns else 0) + beyond
        x = _towards(problem, highlights, x0_hat, kernel, sigma, float(schedule.alphas_cumprod[t]))
        if renoising == 'ancestral':
            x_t = schedule.ddim_step(x_t, highlights.split(x)[0], t, t_next, noise_like(x, problem.generator), eta=1.0)
            place.x_t = x_t
        place.x, place.steps = x, place.steps + 1
        yield t, x


def _towards(problem: EmProblem, highlights: Highlights, x0_hat: Tensor, kernel: Tensor, sigma: Sigma,
             a: float) -> Tensor:
    """The data step at the level ᾱ_t = ``a``; for luma and colour separately, where they differ in sigma."""
    config, counting = problem.config, None
    if problem.white is not None:
        counting = highlights.counting(problem.y, problem.degradation.forward(x0_hat, kernel))

    def solve(y: Tensor, x0_hat: Tensor, sigma: float) -> Tensor:
        rho = config.prior_weight * sigma ** 2 * a / (1 - a)
        return data_step(problem.degradation, kernel, y, x0_hat, rho, config.cg_iterations, counting=counting)

    if sigma.colour is None:
        return solve(problem.y, x0_hat, sigma.luma)
    y, x0_hat = to_ycbcr(problem.y), to_ycbcr(x0_hat)
    return to_rgb(torch.cat([solve(y[:, :1], x0_hat[:, :1], sigma.luma),
                             solve(y[:, 1:], x0_hat[:, 1:], sigma.colour)], 1))


def first_estimate(problem: EmProblem, kernel: Tensor) -> Tensor:
    """The bicubic picture after a first data step."""
    y, degradation = problem.y, problem.degradation
    counting = None if problem.white is None else y < problem.white
    return data_step(degradation, kernel, y, to_canvas(y, degradation), START_RHO, problem.config.cg_iterations,
                     counting=counting)


def m_step(problem: EmProblem, stage: Stage, place: EmPlace) -> None:
    """M step: ``place.kernel`` becomes the kernel for the next pass.

    It is fitted to what the prior makes of the pass's result, not to the result itself: that explains y under the old
    kernel, and would only confirm it. Between passes the kernel goes further than the fit and is centred, and the
    picture moves with it; a stage ends with the fit itself.
    """
    config, kernel = problem.config, place.kernel
    place.remembered = _equations(problem, stage, place)
    fitted = without_haze(fit_kernel(*place.remembered, kernel, config.ridge, stage.smoothness), stage.extra)
    if place.passes + 1 == len(stage.sigmas):
        place.kernel = above_floor(fitted, stage.kernel_floor)
        return
    further = (kernel + config.over_relaxation * (fitted - kernel)).clamp_min(0)
    place.kernel, way = find_place(without_haze(normalise(further), stage.extra), stage.degradation, config,
                                   problem.frame)
    if stage.whole_shifts:
        way = round(way[0]), round(way[1])
    if any(way):
        place.kernel, place.x = shift(place.kernel, way), moved(place.x, way)
        place.remembered = 0.0, 0.0  # they belong to the picture where it was


def _equations(problem: EmProblem, stage: Stage, place: EmPlace) -> tuple[Tensor, Tensor]:
    """(G, b) of the M step: those remembered, and those of what the prior makes of x, noised anew to some levels.

    To G what the prior leaves open is added (:func:`~.quadratic.covariance_lags`), times the stage's uncertainty. LR
    pixels that the prior's estimate does not explain count less; those that may have seen a light brighter than white
    are left out.
    """
    kernel, y, grid, prior = place.kernel, problem.y, stage.degradation, problem.prior
    highlights = Highlights.of(y, problem.white, grid)
    x, beyond = highlights.split(place.x)
    reach = reach_of(grid.kernel_size - 2 * stage.extra, grid.scale)
    unlit = None if highlights.cut is None else away_from(highlights.cut, reach)
    G, b = (stage.memory * part for part in place.remembered)
    share = left_open(kernel, grid.scale) if stage.uncertainty is None else stage.uncertainty
    for t in problem.config.m_levels:
        noise = noise_like(x, problem.generator)
        x0_hat = prior.predict_x0(prior.schedule.q_sample(x, t, noise), t)
        full = x0_hat + beyond
        weights = robust_weights(grid.forward(full, kernel) - y, stage.outlier)
        if unlit is not None:
            weights = unlit if weights is None else weights * unlit
        more_G, more_b = normal_equations(grid, full, y, weights)
        if stage.uncertainty != 0:
            lags = covariance_lags(noise, x0_hat - x, prior.schedule.noise_level(t))
            more_G = more_G + share * window_covariance(lags, grid.kernel_size)
        G, b = G + more_G, b + more_b
    return G, b


def left_open(kernel: Tensor, scale: int) -> Tensor:
    """How much y leaves open of the picture, in units of what the prior does: (A / 8)^1.5, but 3 at most.

    A is the kernel's :func:`area`: the larger it is, the less of the picture gets through. The numbers are empirical
    (docs/tried.md). The result is 0-dimensional, on the kernel's device.
    """
    return ((area(kernel, scale) / OPEN_AREA) ** OPEN_POWER).clamp_max(MOST_OPEN)


def area(kernel: Tensor, scale: int) -> Tensor:
    """Effective area 1 / (s² Σk²) in LR pixels, n for a uniform kernel that covers n of them.

    By Parseval's theorem its inverse is the mean of |K|² over y's frequencies.

    Args:
        kernel: (K, K), sums to 1, on the grid of ``scale`` pixels per LR pixel.
    """
    return 1 / (scale ** 2 * kernel.square().sum())


def robust_weights(residual: Tensor, scale: float) -> Tensor | None:
    """Weights of Student's t (one degree of freedom), 1 / (1 + r² / scale²), (B, 1, h, w).

    r² is the mean of the squared residual (B, C, h, w) over C. None at scale 0: all pixels count alike.
    """
    return 1 / (1 + residual.square().mean(1, keepdim=True) / scale ** 2) if scale else None


def without_haze(kernel: Tensor, extra: int) -> Tensor:
    """The kernel minus its mean on the ``extra`` outermost pixels of its grid, where it should be zero; sums to 1.

    A prior that expects more contrast than there is makes up for it in the kernel: k_true with a haze over the whole
    grid, (1 - p) k_true + p / K², keeps 1 - p of y's contrast at all frequencies but the lowest, and still sums to 1.
    """
    if not extra:
        return kernel
    outside = torch.ones_like(kernel, dtype=torch.bool)
    outside[extra:-extra, extra:-extra] = False
    return normalise((kernel - kernel[outside].mean()).clamp_min(0))


def above_floor(kernel: Tensor, floor: float) -> Tensor:
    """The kernel with all values up to ``floor`` times its maximum set to zero; sums to 1."""
    return normalise(_strong(kernel, floor)) if floor else kernel


def with_weak_parts(kernel: Tensor, scale: int, power: float) -> Tensor:
    """k · (G * k)^(power - 1), scaled to sum 1: the weak parts' share of the light grows, their shape stays.

    How the light is divided between a kernel's parts decides how strong the picture's coarse structure is against its
    edges. y hardly shows that, as a picture with more of it under a kernel with fainter parts explains y as well, and
    EM ends with the weak parts too faint (docs/tried.md).

    Args:
        kernel: (K, K), sums to 1, on the grid of ``scale`` pixels per LR pixel.
        power: 1 leaves the kernel as it is; what is uniform stays so with any.

    G is a Gaussian of three quarters of an LR pixel.
    """
    if power == 1:
        return kernel
    width = DENSITY_WIDTH * scale
    blur = gaussian(2 * math.ceil(3 * width) + 1, sigmas=width).to(kernel)
    density = F.conv2d(kernel[None, None], blur[None, None], padding=len(blur) // 2)[0, 0]
    return normalise(torch.where(kernel > 0, kernel * density ** (power - 1), 0))


def _strong(kernel: Tensor, floor: float) -> Tensor:
    """The kernel's values above ``floor`` times its maximum, 0 elsewhere."""
    return torch.where(kernel > floor * kernel.max(), kernel, 0)


def find_place(kernel: Tensor, grid: Degradation, config: EmConfig,
               frame: Frame | None = None) -> tuple[Tensor, tuple[float, float]]:
    """The kernel on ``grid``, and the shift (dy, dx) that will bring it to its place.

    A shift between x and k cannot be seen in y; by convention k's centre of mass lies in the middle of the grid. EM
    makes a kernel's weak parts too faint, which pulls the centre of mass towards the strong ones. Taking the centre of
    a power of k below 1 undoes some of that (docs/tried.md). Where y has a ``frame``, it tells the place, and the parts
    of the kernel are weighed anew (:meth:`~.frame.Frame.fit`).
    """
    told = told_by(frame, config)
    strong, powers = _strong(kernel, config.kernel_floor), [FRAMED_POWER if t else config.centre_power for t in told]
    ways = {power: (len(kernel) - 1) / 2 - centre_of_mass(strong ** power) for power in set(powers)}
    dy, dx = (float(ways[power][axis]) for axis, power in enumerate(powers))
    return frame.fit(kernel, grid, (dy, dx), config.centre_error) if any(told) else (kernel, (dy, dx))


def told_by(frame: Frame | None, config: EmConfig) -> tuple[bool, bool]:
    """Whether y's frame is used for the kernel's place and weights along rows, and whether along columns."""
    return frame.tells if frame is not None and config.centre_error > 0 else (False, False)


def moved(x: Tensor, way: tuple[float, float]) -> Tensor:
    """x moved by (dy, dx) pixels. If the kernel is moved by the same, y stays as it is.

    Fractions of a pixel are interpolated bilinearly, which blurs a little: only for passes that others follow.
    """
    for dim, d in zip((-2, -1), way):
        part = d - math.floor(d)
        x = (1 - part) * x.roll(math.floor(d), dim) + part * x.roll(math.floor(d) + 1, dim)
    return x


def lr_mse(degradation: Degradation, x: Tensor, kernel: Tensor, y: Tensor, white: float | None = None) -> float:
    """MSE(y, (x * k)↓s), where values from ``white`` on are cut off."""
    seen = degradation.forward(x, kernel)
    return float((seen - y if white is None else seen.clamp_max(white) - y.clamp_max(white)).square().mean())
