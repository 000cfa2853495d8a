"""The two steps of diffusion EM, and the passes that take them in turn: the image given the kernel, and the reverse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .colour import to_rgb, to_ycbcr
from .degradation import Degradation, to_canvas
from .diffusion import Prior, noise_like, timesteps
from .em_config import EmConfig
from .frame import Frame
from .kernel_align import centre_of_mass, normalise, shift
from .noise import Sigma
from .orientations import predict_turned
from .quadratic import covariance_lags, data_step, fit_kernel, normal_equations, window_covariance
from .state import EmPlace

FRAMED_POWER = 0.9  # for centre_power where y's frame is asked, which weighs faint parts anew
START_RHO = 0.03  # weight of the bicubic picture in the very first data step
OPEN_AREA = 8.0  # LR pixels: effective area of a kernel under which y leaves as much open as the prior does
OPEN_POWER = 1.5  # how that grows with the area
MOST_OPEN = 3.0


@dataclass(frozen=True)
class Stage:
    """One scale of the search for the kernel: an EM pass for each of ``sigmas``."""

    degradation: Degradation
    sigmas: list[Sigma]
    smoothness: float
    extra: int = 0  # pixels on each side by which the kernel's grid is wider than the one asked for
    uncertainty: float | None = 0.0  # None: by the kernel's area
    uncertainties: tuple[float | None, ...] = (0.0,)  # that are to be tried; none: the one found by the stage before
    outlier: float = 0.0
    memory: float = 0.0
    kernel_floor: float = 0.0  # of the kernel that the stage ends with
    frame: Frame | None = None  # of y, where it fades to black
    whole_shifts: bool = False  # between passes the kernel is centred by whole pixels, or to a fraction of one


@torch.no_grad()
def em_passes(y: Tensor, kernel: Tensor, prior: Prior, stage: Stage, config: EmConfig, generator: Generator,
              place: EmPlace | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """One EM pass for each assumed noise of a stage, from ``place`` on; yields (t, x0, k) after every step of them.

    All E steps of a pass use the kernel that it began with. The M step fits the next one to what the prior makes of the
    pass's result, not to the result itself: that explains y under the old kernel, and would only confirm it.
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
                fitted = without_haze(fit_kernel(*remembered, kernel, config.ridge, stage.smoothness), stage.extra)
                if number == len(stage.sigmas):  # a stage ends with the fit itself
                    kernel = above_floor(fitted, stage.kernel_floor)
                else:
                    further = (kernel + config.over_relaxation * (fitted - kernel)).clamp_min(0)
                    kernel, way = find_place(without_haze(normalise(further), stage.extra), degradation, config,
                                             stage.frame)
                    if stage.whole_shifts:
                        way = round(way[0]), round(way[1])
                    if any(way):
                        kernel, x = shift(kernel, way), moved(x, way)
                        remembered = 0.0, 0.0
                place.end_pass(number)
            place.x, place.kernel, place.remembered = x, kernel, remembered
            yield t, x, kernel


@torch.no_grad()
def reverse_pass(x: Tensor, kernel: Tensor, y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig,
                 generator: Generator, levels: list[int], sigma: Sigma, renoising: str = 'ancestral',
                 place: EmPlace | None = None, turns: bool = False) -> Iterator[tuple[int, Tensor]]:
    """E step: from x noised to the first of ``levels`` down to an estimate of x given y and k.

    At each level the data step pulls the prior's estimate x0_hat towards y. ``renoising`` says how the next level's x_t
    is made of the result: ``ancestral`` draws a sample of p(x | y, k), ``fresh`` adds wholly new noise, ``none`` adds
    none, and what the prior then takes for noise is the estimate's own error. With ``turns`` the prior sees the picture
    in another orientation at each step. Yields (t, x0), x0 after the data step. To resume a pass, give its ``place``,
    its last x and the levels that are left.
    """
    place = EmPlace() if place is None else place
    x_t = place.x_t
    for t, t_next in itertools.pairwise(levels):
        if x_t is None or renoising != 'ancestral':
            x_t = prior.schedule.q_sample(x, t, 0.0 if renoising == 'none' else noise_like(x, generator))
        a = float(prior.schedule.alphas_cumprod[t])
        x0_hat = predict_turned(prior, x_t, t, place.steps if turns else 0)
        x = _towards(y, x0_hat, kernel, degradation, sigma, a, config)
        if renoising == 'ancestral':
            x_t = prior.schedule.ddim_step(x_t, x, t, t_next, noise_like(x, generator), eta=1.0)
            place.x_t = x_t
        place.x, place.steps = x, place.steps + 1
        yield t, x


def _towards(y: Tensor, x0_hat: Tensor, kernel: Tensor, degradation: Degradation, sigma: Sigma, a: float,
             config: EmConfig) -> Tensor:
    """The data step at the level ᾱ_t = ``a``; by luma and colour apart, where they differ in sigma."""
    def solve(y: Tensor, x0_hat: Tensor, sigma: float) -> Tensor:
        rho = config.prior_weight * sigma ** 2 * a / (1 - a)
        return data_step(degradation, kernel, y, x0_hat, rho, config.cg_iterations)

    if sigma.colour is None:
        return solve(y, x0_hat, sigma.luma)
    y, x0_hat = to_ycbcr(y), to_ycbcr(x0_hat)
    return to_rgb(torch.cat([solve(y[:, :1], x0_hat[:, :1], sigma.luma),
                             solve(y[:, 1:], x0_hat[:, 1:], sigma.colour)], 1))


def first_estimate(y: Tensor, kernel: Tensor, degradation: Degradation, config: EmConfig) -> Tensor:
    """The bicubic picture after a first data step."""
    return data_step(degradation, kernel, y, to_canvas(y, degradation), START_RHO, config.cg_iterations)


def _equations(x: Tensor, kernel: Tensor, y: Tensor, prior: Prior, stage: Stage, levels: list[int],
               generator: Generator, earlier: tuple) -> tuple[Tensor, Tensor]:
    """``earlier`` (G, b) plus the normal equations of what the prior makes of x, noised anew to each of ``levels``.

    To G what the prior leaves open is added (:func:`~.quadratic.covariance_lags`), times the stage's uncertainty.
    """
    G, b = earlier
    share = left_open(kernel, stage.degradation.scale) if stage.uncertainty is None else stage.uncertainty
    for t in levels:
        noise = noise_like(x, generator)
        x0_hat = prior.predict_x0(prior.schedule.q_sample(x, t, noise), t)
        weights = robust_weights(stage.degradation.forward(x0_hat, kernel) - y, stage.outlier)
        more_G, more_b = normal_equations(stage.degradation, x0_hat, y, weights)
        if stage.uncertainty != 0:
            lags = covariance_lags(noise, x0_hat - x, prior.schedule.noise_level(t))
            more_G = more_G + share * window_covariance(lags, stage.degradation.kernel_size)
        G, b = G + more_G, b + more_b
    return G, b


def left_open(kernel: Tensor, scale: int) -> Tensor:
    """How much y leaves open of the picture, in units of what the prior does: (A / 8)^1.5, but 3 at most.

    A is the kernel's :func:`area`: the larger, the less of the picture gets through. The numbers are empirical
    (docs/tried.md). 0-dimensional, on the kernel's device.
    """
    return ((area(kernel, scale) / OPEN_AREA) ** OPEN_POWER).clamp_max(MOST_OPEN)


def area(kernel: Tensor, scale: int) -> Tensor:
    """Effective area 1 / (s² Σk²) in LR pixels, n for a uniform kernel that covers n of them.

    By Parseval its inverse is the mean of |K|² over y's frequencies.

    Args:
        kernel: (K, K), sums to 1, on the grid of ``scale`` pixels per LR pixel.
    """
    return 1 / (scale ** 2 * kernel.square().sum())


def robust_weights(residual: Tensor, scale: float) -> Tensor | None:
    """Student's t (one degree of freedom): 1 / (1 + r² / scale²) of (B, C, h, w), r² the mean over C, as (B, 1, h, w).

    None at scale 0: all pixels count alike.
    """
    return 1 / (1 + residual.square().mean(1, keepdim=True) / scale ** 2) if scale else None


def without_haze(kernel: Tensor, extra: int) -> Tensor:
    """The kernel less its mean on the ``extra`` outermost pixels of its grid, where it should be zero; sum 1.

    A prior that expects more contrast than there is makes up for it in the kernel: k_true and a haze over all of the
    grid, (1 - p) k_true + p / K², keeps 1 - p of y's contrast at all frequencies but the lowest, and the sum of 1.
    """
    if not extra:
        return kernel
    outside = torch.ones_like(kernel, dtype=torch.bool)
    outside[extra:-extra, extra:-extra] = False
    return normalise((kernel - kernel[outside].mean()).clamp_min(0))


def above_floor(kernel: Tensor, floor: float) -> Tensor:
    """The kernel with what is below ``floor`` times its maximum set to zero; sum 1."""
    return normalise(_strong(kernel, floor)) if floor else kernel


def _strong(kernel: Tensor, floor: float) -> Tensor:
    """The kernel's values above ``floor`` times its maximum, 0 elsewhere."""
    return torch.where(kernel > floor * kernel.max(), kernel, 0)


def find_place(kernel: Tensor, grid: Degradation, config: EmConfig,
               frame: Frame | None = None) -> tuple[Tensor, tuple[float, float]]:
    """The kernel on ``grid``, and the shift (dy, dx) that will bring it to its place.

    The shift between x and k cannot be seen in y; the convention is that k's centre of mass lies in the middle. EM
    draws a kernel's weak parts too faint, which pulls the centre of mass towards the strong ones. The centre of a
    power of k below 1 undoes some of that (docs/tried.md). Where y has a ``frame``, that tells the place, and weighs
    the parts of the kernel anew (:meth:`~.frame.Frame.fit`).
    """
    told = frame.tells if frame is not None and config.centre_error > 0 else (False, False)
    strong, powers = _strong(kernel, config.kernel_floor), [FRAMED_POWER if t else config.centre_power for t in told]
    ways = {power: (len(kernel) - 1) / 2 - centre_of_mass(strong ** power) for power in set(powers)}
    dy, dx = (float(ways[power][axis]) for axis, power in enumerate(powers))
    return frame.fit(kernel, grid, (dy, dx), config.centre_error) if any(told) else (kernel, (dy, dx))


def moved(x: Tensor, way: tuple[float, float]) -> Tensor:
    """x moved by (dy, dx). Where the kernel is moved likewise, y stays as it is.

    Fractions of a pixel are bilinear, which blurs a little: for passes that others follow.
    """
    for dim, d in zip((-2, -1), way):
        part = d - math.floor(d)
        x = (1 - part) * x.roll(math.floor(d), dim) + part * x.roll(math.floor(d) + 1, dim)
    return x


def lr_mse(degradation: Degradation, x: Tensor, kernel: Tensor, y: Tensor) -> float:
    """MSE(y, (x * k)↓s)."""
    return float((degradation.forward(x, kernel) - y).square().mean())
