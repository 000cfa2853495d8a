"""Settings of Phase 2 by diffusion EM."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .diffusion import timesteps
from .sections import check_choice

UNCERTAINTIES = (0.5, 1.0, 2.0)  # those tried if none is given
KERNEL_PRIORS = ('textures', 'internal')
FINAL_PRIORS = {'tuned': ('tuned', 'textures'), 'both': ('prior', 'textures'), 'textures': ('textures',),
                'internal': ('prior',)}  # the priors whose estimates are averaged
LEAST_PIECE = 8  # LR pixels: side of y, or of a piece of it, that a kernel can be found on


@dataclass(frozen=True)
class EmConfig:
    """Phase 2 by diffusion EM. The defaults were found on the development images (docs/tried.md).

    Attributes:
        kernel_prior: what the kernel is found with: ``textures``, the prior that ships with the package, or
            ``internal``, PD fitted to y at half size, where the blur is half as wide: nothing but y is used then.
        final_prior: of the final passes: ``textures``, ``internal`` (PD fitted to y), or the mean of two estimates:
            ``tuned``, of the texture prior as it ships and trained on with y, or ``both``, of PD and the texture prior.
        searches: how often the kernel is searched for, each time from other noise; the one that makes y likeliest is
            taken (:func:`~.restarts.surprise`).
        kernel_side: the kernel is found on the square piece of y of this side (LR pixels) that has the strongest
            edges; 0 for all of y.
        rim: LR pixels at each side of y that the kernel is not found on. None: where y fades to black at its frame, the
            LR pixels that see beyond the frame; at other sides 0 (:mod:`~.frame`).
        support: while the kernel is being found, its grid is this many times as wide as the one asked for, so that a
            kernel that comes out off centre is not cut off; at the end it is centred, then cut. What there is of it
            outside the grid asked for is haze, and subtracted everywhere (:func:`~.em_steps.without_haze`).
        start_width: standard deviation of the Gaussian that the kernel starts from, in LR pixels.
        sketch_passes, coarse_passes, fine_passes: EM passes at scale 1, at scale 2 and at the full scale.
        sketch_noise_start, sketch_noise_end, coarse_…, fine_…: sigma, the noise assumed in y (range [-1, 1]), falls
            geometrically from pass to pass; it is high while k is wrong, so that the image does not bend to k.
        draws: pictures that a pass of the search estimates, each from other noise; its M step sums over them. With
            several, seeds differ less on small pictures, at that many times the time (docs/tried.md).
        steps: reverse diffusion steps of a pass.
        t_start: level that a pass starts from.
        t_power: how densely the levels lie at the low end, see :func:`~.diffusion.timesteps`.
        kernel_levels: the M step uses the prior's estimates of the pass's result, noised anew to each of the pass's
            last levels, this many.
        over_relaxation: the kernel moves this many times as far as the M step's fit is away, except in a stage's last
            pass.
        memory: at the full scale, weight of the previous pass's normal equations in those of the next.
        outlier: at the full scale, the residual (range [-1, 1]) above which an LR pixel counts less in the M step; 0:
            all count alike.
        prior_weight: lambda in rho_t = lambda · sigma² · ᾱ_t / (1 - ᾱ_t).
        uncertainty: the M step of EM needs E[UᵀU | y], which includes the windows' covariance; without it, frequencies
            that the estimate lacks come out too strong in the kernel. In its place stands the covariance that the prior
            leaves open at the levels of the M step, times this factor: 1 in theory; 0.5 is better on some pictures, 2
            under some kernels. None: chosen automatically. The coarse stage is done with each of :data:`UNCERTAINTIES`
            as long as that makes y likelier (:func:`~.likelihood.nll`); for wide kernels the search is then repeated
            with a factor that follows from the kernel's area (:func:`~.em_steps.left_open`).
        ridge: weight of ||k||² in the M step, as a share of the normal matrix's mean diagonal.
        smoothness: likewise, of the kernel's :func:`~.quadratic.roughness`, at the full scale.
        centre_power: the kernel is centred by the centre of mass of k^power; of k^0.9 where y's frame is used.
        centre_error: how far that centre is from the kernel's true place, in LR pixels. It is weighed against what
            y's frame tells, where y was made with black beyond it (:mod:`~.frame`). 0: the frame is not used.
        kernel_floor: what is below this share of the kernel's maximum is taken for an error (Cho & Lee 2009): it does
            not count for the centre, and at the end of the search it is set to zero, as faint wings would sharpen the
            picture too much. Not earlier: a faint part that is cut off leaves a ghost in the picture, the next fit
            explains the ghost and makes what is left of that part fainter still, until the kernel is a dot.
        density_power: EM gives a kernel's weak parts too small a share of the light, a tenth to a third too little. So
            at the end of a search each value is multiplied by the kernel's density around it to this power minus 1
            (:func:`~.em_steps.with_weak_parts`); 1: left as found. Not where y's frame is used, which weighs the parts
            itself.
        final_samples: 0: one final pass without noise. Else the result is the mean of this many samples of
            p(x | y, k): one is the sharpest, the mean of many has the least error.
        final_steps, final_t_start, final_noise: of each final pass.
        final_turns: whether the prior of a final pass sees the picture in another orientation, turned or mirrored, at
            each step (periodical geometric self-ensemble, Zhang et al. 2021, DPIR).
        noise_floor: the noise found in y, white or JPEG's (:func:`~.noise.estimate_noise`), times this, is added to
            every sigma (root of the sum of squares). JPEG's counts twice for colour.
        search_jpeg: factor on JPEG's noise during the search for the kernel.
        jpeg_centre_power, jpeg_density_power: replace ``centre_power`` and ``density_power`` where JPEG has left much
            error, and in part where it has left less.
        final_white: the share of the white noise found in y that a final pass without noise (``final_samples`` 0)
            assumes; with all of it the pass smooths too much. One half means a quarter of the prior's weight (DPIR:
            0.23). JPEG's error counts in full: that is best under kernels that are not quite right.
        overexposure: whether x may be brighter than white where y has been cut off at white (:mod:`~.overexposure`).
        cg_iterations: conjugate-gradient iterations of a data step.
    """

    kernel_prior: str = 'textures'
    final_prior: str = 'tuned'
    searches: int = 1
    kernel_side: int = 192
    rim: int | None = None
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
    draws: int = 1
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
    centre_power: float = 0.8
    centre_error: float = 0.05
    kernel_floor: float = 0.05
    density_power: float = 0.85
    final_samples: int = 0
    final_steps: int = 16
    final_t_start: int = 200
    final_noise: float = 0.006
    final_turns: bool = True
    noise_floor: float = 1.0
    search_jpeg: float = 1.5
    jpeg_centre_power: float = 0.7
    jpeg_density_power: float = 0.75
    final_white: float = 0.5
    overexposure: bool = True
    cg_iterations: int = 15

    @property
    def levels(self) -> list[int]:
        """Diffusion times of a pass of the search, down to the final -1."""
        return timesteps(self.t_start, self.steps, self.t_power)

    @property
    def m_levels(self) -> list[int]:
        """Those at which the M step takes the prior's estimates."""
        return self.levels[-1 - self.kernel_levels:-1]

    def __post_init__(self) -> None:
        check_choice('em.kernel_prior', self.kernel_prior, KERNEL_PRIORS)
        check_choice('em.final_prior', self.final_prior, FINAL_PRIORS)
        for name in ('searches', 'sketch_passes', 'draws', 'steps', 'kernel_levels', 'final_steps', 'cg_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'em.{name} must be at least 1, got {getattr(self, name)}')
        for name in ('coarse_passes', 'fine_passes', 'kernel_side', 'smoothness', 'noise_floor', 'outlier',
                     'search_jpeg', 'final_white', 'final_samples', 'uncertainty', 'rim', 'centre_error'):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must not be negative, got {getattr(self, name)}')
        for name in ('sketch_noise_start', 'sketch_noise_end', 'coarse_noise_start', 'coarse_noise_end',
                     'fine_noise_start', 'fine_noise_end', 'start_width', 'final_noise', 'prior_weight', 'ridge',
                     'centre_power', 'jpeg_centre_power', 'density_power', 'jpeg_density_power', 't_power'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must be positive and finite, got {getattr(self, name)}')
        if 0 < self.kernel_side < LEAST_PIECE:
            raise ValueError(f'em.kernel_side must be 0 or at least {LEAST_PIECE}, got {self.kernel_side}')
        if not 1 <= self.support < math.inf or not 0 <= self.kernel_floor < 1:
            raise ValueError(f'em.support must be at least 1 and em.kernel_floor in [0, 1), got {self.support}, '
                             f'{self.kernel_floor}')
        if not 1 <= self.over_relaxation < math.inf or not 0 <= self.memory < 1:
            raise ValueError(f'em.over_relaxation must be at least 1 and em.memory in [0, 1), got '
                             f'{self.over_relaxation}, {self.memory}')
        for steps, start in (('steps', 't_start'), ('final_steps', 'final_t_start')):
            if getattr(self, start) + 1 < getattr(self, steps):
                raise ValueError(f'em.{start} = {getattr(self, start)} has no room for em.{steps} = '
                                 f'{getattr(self, steps)} steps')
