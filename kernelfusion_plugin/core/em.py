"""Phase 2 by diffusion EM, coarse to fine: image and kernel in turn, no network is trained.

Model: p(x) from a diffusion prior, y = (x * k)↓s + n with n ~ N(0, sigma²). Given k, an E step walks the reverse
diffusion with a data step at every level (Zhu et al. 2023, DiffPIR); given x, an M step fits k (Laroche et al. 2024,
fast diffusion EM). Blind deconvolution's old rule, coarse to fine, keeps the start of the kernel harmless:

1. The sketch, at scale 1: y is deblurred on its own grid, K is about 6 x 6.
2. The coarse stage at scale 2, and the fine one at the full scale, each from the kernel before.
3. The final pass with the kernel fixed: plug-and-play, half-quadratic splitting without noise (Zhang et al. 2021,
   DPIR), which comes near the mean of many samples of p(x | y, k) at the price of one; or that mean itself. The prior
   sees another orientation of the picture at each step.

EM creeps where a kernel's weak parts have to grow, so each M step goes further than its fit (over-relaxation,
Salakhutdinov & Roweis 2003). At the full scale it remembers the passes before (stochastic approximation EM, Delyon
et al. 1999) and trusts LR pixels less that the prior's estimate does not explain (weights of Student's t), such as
those of fine texture. If an M step counts too little of the windows' covariance, wide kernels break up into dots on
some pictures; if too much, kernels of fine parts grow too wide on others. So the coarse stage tries several amounts and
keeps the one under which y is likeliest (``likelihood``). Under wide kernels that does not tell; for those the search
is repeated with an amount that follows from the kernel's area, and the likelier kernel is taken. What lies beyond the
kernel's grid is taken off it, as haze. A black frame around y tells where the kernel lies (``frame``).

Which prior finds the kernel decides. EM moves away even from the true kernel if the prior likes blurred patches as
much as sharp ones, and PD's, fitted to y, does: y is blurred. See ``texture_prior`` for the one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Generator, Tensor

from .degradation import Degradation
from .diffusion import Prior, timesteps
from .em_config import EmConfig
from .em_steps import first_estimate, lr_mse, reverse_pass
from .frame import Frame
from .noise import Noise, estimate_noise
from .restarts import search, search_steps, surprise
from .state import EmPlace, Phase2State


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
    noise = assumed_noise(y, config)
    total = (0 if kernel is not None else search_steps(config)) + final_steps(config)
    place = EmPlace.at(resume, y.device)
    if kernel is None:
        frame = Frame.of(y, degradation)
        yield from search(y, kernel_prior, degradation, config, generator, noise, place, total, frame=frame)
        kernel = place.best
        if place.surprise is None:
            place.surprise = surprise(y, kernel, kernel_prior, degradation, config, frame)
    yield from final_passes(y, prior, degradation, kernel, config, generator, noise, place, total)


def check_levels(config: EmConfig, prior: Prior, kernel_prior: Prior) -> None:
    """Refuse passes that start at a level that their prior's schedule does not have."""
    for name, used in (('t_start', kernel_prior), ('final_t_start', prior)):
        if getattr(config, name) >= used.schedule.steps:
            raise ValueError(f'em.{name} must be below the {used.schedule.steps} levels of the prior, got '
                             f'{getattr(config, name)}')


def assumed_noise(y: Tensor, config: EmConfig) -> Noise:
    """What is found in y besides (x * k)↓s, times ``noise_floor``."""
    return estimate_noise(y).times(config.noise_floor, config.noise_floor)


def final_steps(config: EmConfig) -> int:
    """Steps of the final passes."""
    return max(1, config.final_samples) * config.final_steps


def final_passes(y: Tensor, prior: Prior, degradation: Degradation, kernel: Tensor, config: EmConfig,
                 generator: Generator, noise: Noise, place: EmPlace, total: int) -> Iterator[Phase2State]:
    """The picture under a fixed kernel (or kernels, as ``degradation`` takes); ends a run of ``total`` steps."""
    levels = timesteps(config.final_t_start, config.final_steps, config.t_power)
    renoising, white = ('ancestral', 1.0) if config.final_samples else ('none', config.final_white)
    sigma = noise.times(white, 1.0).added_to(config.final_noise)
    for sample in range(place.passes, max(1, config.final_samples)):
        x = first_estimate(y, kernel, degradation, config) if place.x is None else place.x
        walk = reverse_pass(x, kernel, y, prior, degradation, config, generator, levels[place.steps:], sigma,
                            renoising, place, config.final_turns)
        for t, x in walk:
            place.step += 1
            mean = (place.before + x).div_(sample + 1)
            yield Phase2State(place.step, total, t, mean, kernel,
                              {'residual': lr_mse(degradation, mean, kernel, y)}, place.snapshot,
                              surprise=place.surprise)
        place.end_sample()
