"""Phase 2 by diffusion EM, coarse to fine: image and kernel in turn, no network is trained.

Model: p(x) from a diffusion prior, y = (x * k)↓s + n with n ~ N(0, sigma²). Given k, an E step walks the reverse
diffusion with a data step at every level (Zhu et al. 2023, DiffPIR); given x, an M step fits k (Laroche et al. 2024,
fast diffusion EM). Blind deconvolution's old rule, coarse to fine, makes what the kernel starts from harmless:

1. The sketch, at scale 1: y is deblurred on its own grid; the kernel asked for covers about 6 x 6 of its pixels.
2. The coarse stage at scale 2 and the fine one at the full scale, each starting from the kernel of the stage before.
3. The final pass with the kernel fixed: plug-and-play, half-quadratic splitting without noise (Zhang et al. 2021,
   DPIR), which comes near the mean of many samples of p(x | y, k) at the cost of one; or that mean itself. The prior
   sees another orientation of the picture at each step.

EM is slow where a kernel's weak parts have to grow, so each M step goes further than its fit (over-relaxation,
Salakhutdinov & Roweis 2003). At the full scale it remembers the previous passes (stochastic approximation EM, Delyon
et al. 1999) and trusts those LR pixels less that the prior's estimate does not explain (weights of Student's t), such
as those of fine texture. If an M step includes too little of the windows' covariance, wide kernels break up into dots
on some pictures; if too much, kernels with fine parts grow too wide on others. So the coarse stage tries several
amounts and keeps the one under which y is likeliest (``likelihood``). For wide kernels the likelihood does not decide;
there the search is repeated with an amount that follows from the kernel's area, and the likelier kernel is taken. What
there is of a kernel outside the grid asked for is haze, and subtracted everywhere. A black frame around y tells where
the kernel lies and how strong its parts are (``frame``); without one the weak parts, which come out too faint, are made
up for at the end.

A run is a ladder of loops: searches (``restarts``); attempts, stages, trials (``kernel_search``); passes, each of which
is an E step and an M step (``em_steps``); then the final passes, here. All take an ``EmProblem``, which stays the same,
and an ``EmPlace``, which they move on, so that a run can be resumed after any step (``em_state``).

Success depends on the prior that finds the kernel. EM moves away even from the true kernel if the prior likes blurred
patches as much as sharp ones, and PD, fitted to y, does: y is blurred. ``texture_prior`` has one that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Generator, Tensor

from .degradation import Degradation
from .diffusion import Prior, timesteps
from .em_config import EmConfig
from .em_state import EmPlace, EmProblem, EmStep
from .em_steps import first_estimate, lr_mse, reverse_pass
from .frame import Frame
from .noise import Noise, estimate_noise
from .overexposure import Highlights, white_level
from .restarts import search, search_steps, surprise
from .state import Phase2State


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
        resume: a state's ``snapshot()``, to continue after that step; ``generator`` must be as it was then.

    Raises:
        ValueError: a pass starts at a level that the prior's schedule does not have.
    """
    kernel_prior = kernel_prior or prior
    check_levels(config, prior, kernel_prior)
    problem = pose(y, kernel_prior, degradation, config, generator)
    place = EmPlace.at(resume, y.device)
    total = (0 if kernel is not None else search_steps(config)) + final_steps(config)
    if kernel is None:
        problem = replace(problem, frame=Frame.of(y, degradation))
        yield from counted(search(problem, place), place, total)
        kernel = place.best
        if place.surprise is None:
            place.surprise = surprise(problem, kernel)
    for state in counted(final_passes(replace(problem, prior=prior), kernel, place), place, total):
        yield replace(state, surprise=place.surprise)


def check_levels(config: EmConfig, prior: Prior, kernel_prior: Prior) -> None:
    """Refuse passes that start at a level that their prior's schedule does not have."""
    for name, used in (('t_start', kernel_prior), ('final_t_start', prior)):
        if getattr(config, name) >= used.schedule.steps:
            raise ValueError(f'em.{name} must be below the {used.schedule.steps} levels of the prior, got '
                             f'{getattr(config, name)}')


def pose(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator) -> EmProblem:
    """The problem as y itself tells it: with the noise and the overexposure found in it."""
    noise = assumed_noise(y, config)
    return EmProblem(y, prior, degradation, config, generator, noise,
                     white=white_level(y, noise.jpeg) if config.overexposure else None)


def assumed_noise(y: Tensor, config: EmConfig) -> Noise:
    """What is found in y besides (x * k)↓s, times ``noise_floor``."""
    return estimate_noise(y).times(config.noise_floor, config.noise_floor)


def counted(steps: Iterable[EmStep], place: EmPlace, total: int) -> Iterator[Phase2State]:
    """The steps as states of a run of ``total`` steps; counts them in ``place.step``."""
    for t, x0_hat, kernel, residual in steps:
        place.step += 1
        yield Phase2State(place.step, total, t, x0_hat, kernel, {'residual': residual}, place.snapshot)


def final_steps(config: EmConfig) -> int:
    """Steps of the final passes."""
    return max(1, config.final_samples) * config.final_steps


def final_passes(problem: EmProblem, kernel: Tensor, place: EmPlace) -> Iterator[EmStep]:
    """The picture under a fixed kernel (or kernels, as the degradation takes them), from ``place`` on."""
    config = problem.config
    levels = timesteps(config.final_t_start, config.final_steps, config.t_power)
    renoising, white = ('ancestral', 1.0) if config.final_samples else ('none', config.final_white)
    sigma = problem.noise.times(white, 1.0).added_to(config.final_noise)
    lit = None if problem.white is None else _lit(problem, kernel)
    if lit is None:
        problem = replace(problem, white=None)
    for sample in range(place.passes, max(1, config.final_samples)):
        if place.x is None:
            place.x = first_estimate(problem, kernel) if lit is None else lit
        for t, x in reverse_pass(problem, kernel, sigma, levels, renoising, place, config.final_turns):
            mean = (place.before + x).div_(sample + 1)
            yield EmStep(t, mean, kernel, lr_mse(problem.degradation, mean, kernel, problem.y, problem.white))
        place.end_sample()


def _lit(problem: EmProblem, kernel: Tensor) -> Tensor | None:
    """What the final passes of an overexposed y begin with; None if no lights are needed to explain it after all."""
    highlights = Highlights.of(problem.y, problem.white, problem.degradation)
    return highlights.lit(first_estimate(problem, kernel), problem.y, kernel, problem.degradation,
                          problem.noise.level())
