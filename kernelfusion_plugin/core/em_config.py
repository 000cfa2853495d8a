"""Settings of Phase 2 by diffusion EM."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .diffusion import timesteps

UNCERTAINTIES = (0.5, 1.0, 2.0)  # that are tried where none is given
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
        searches: how often the kernel is sought, each time from other noise; the one that makes y likeliest is taken
            (:func:`~.restarts.surprise`).
        kernel_side: the kernel is found on the square piece of y of this side (LR pixels) that has the strongest
            edges; 0 for all of y.
        rim: LR pixels at each side of y that the kernel is not found on. None: those that see beyond the frame, at
            sides where y fades to black there, else 0 (:mod:`~.frame`).
        support: the kernel's grid is this many times wider than the one asked for while it is found, so that a
            kernel that comes out off centre is not cut; it is centred, then cut, at the end. What there is of it beyond
            the grid asked for is haze, and taken off everywhere (:func:`~.em_steps.without_haze`).
        start_width: standard deviation of the Gaussian that the kernel starts from, in LR pixels.
        sketch_passes, coarse_passes, fine_passes: EM passes at scale 1, at scale 2 and at the full scale.
        sketch_noise_start, sketch_noise_end, coarse_…, fine_…: sigma, the noise assumed in y (range [-1, 1]), falls
            geometrically from pass to pass; high while k is wrong, lest the image bend to it.
        draws: pictures that a pass of the search estimates, each from other noise, and that its M step sums over: with
            several, seeds differ less on small pictures, in as many times the time (docs/tried.md).
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
        uncertainty: the M step of EM needs E[UᵀU | y], which has the windows' covariance in it; without that,
            frequencies that the estimate lacks come out too strong in the kernel. The covariance that the prior leaves
            open at the levels of the M step stands in for it, times this: 1 by theory; a half is better on some
            pictures, two under some kernels. None: chosen by itself. The coarse stage is done with each of
            :data:`UNCERTAINTIES` as long as that makes y likelier (:func:`~.likelihood.nll`); for wide kernels the
            search is then repeated with a factor that follows from the kernel's area (:func:`~.em_steps.left_open`).
        ridge: weight of ||k||² in the M step, as a share of the normal matrix's mean diagonal.
        smoothness: likewise of the kernel's :func:`~.quadratic.roughness`, at the full scale.
        centre_power: the kernel is centred by the centre of mass of k^power; of k^0.9 where y's frame is asked.
        centre_error: how far that centre is from the kernel's true place, in LR pixels. Against it stands what y's
            frame tells, where y was made with black beyond (:mod:`~.frame`). 0: the frame is not asked.
        kernel_floor: what is below this share of the kernel's maximum is not believed (Cho & Lee 2009): it does not
            count for the centre, and at the end of the search it is set to zero. Faint wings would sharpen the picture
            too much. Not earlier: a faint part that is cut leaves a ghost in the picture, the next fit explains the
            ghost and makes what is left of that part fainter still, until the kernel is a dot.
        final_samples: 0: one final pass without noise. Else the result is the mean of this many samples of
            p(x | y, k): one is the sharpest, the mean of many has the least error.
        final_steps, final_t_start, final_noise: of each final pass.
        final_turns: whether the prior of a final pass sees the picture turned and mirrored in another way at each step
            (periodical geometric self-ensemble, Zhang et al. 2021, DPIR).
        noise_floor: the noise found in y, white or JPEG's (:func:`~.noise.estimate_noise`), times this, is added to
            every sigma (root of the sum of squares). JPEG's counts twice for colour.
        search_jpeg: factor on JPEG's noise while the kernel is sought.
        jpeg_centre_power: takes the place of ``centre_power`` where JPEG has left much, and partly where less.
        final_white: the share of the white noise found in y that a final pass without noise (``final_samples`` 0)
            assumes; with all of it the pass smooths too much. A half is a weight of the prior of a quarter
            (DPIR: 0.23). What JPEG has left counts in full: under kernels that are not quite right that is best.
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
    final_samples: int = 0
    final_steps: int = 16
    final_t_start: int = 200
    final_noise: float = 0.006
    final_turns: bool = True
    noise_floor: float = 1.0
    search_jpeg: float = 1.5
    jpeg_centre_power: float = 0.7
    final_white: float = 0.5
    cg_iterations: int = 15

    @property
    def levels(self) -> list[int]:
        """Diffusion times of a pass of the search, down to the final -1."""
        return timesteps(self.t_start, self.steps, self.t_power)

    @property
    def m_levels(self) -> list[int]:
        """Those that the M step takes the prior's estimates at."""
        return self.levels[-1 - self.kernel_levels:-1]

    def __post_init__(self) -> None:
        for name, known in (('kernel_prior', KERNEL_PRIORS), ('final_prior', FINAL_PRIORS)):
            if getattr(self, name) not in known:
                raise ValueError(f'em.{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}')
        for name in ('searches', 'sketch_passes', 'draws', 'steps', 'kernel_levels', 'final_steps', 'cg_iterations'):
            if getattr(self, name) < 1:
                raise ValueError(f'em.{name} must be at least 1, got {getattr(self, name)}')
        for name in ('coarse_passes', 'fine_passes', 'kernel_side', 'smoothness', 'noise_floor', 'outlier',
                     'search_jpeg', 'final_white', 'final_samples', 'uncertainty', 'rim', 'centre_error'):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'em.{name} must not be negative, got {getattr(self, name)}')
        for name in ('sketch_noise_start', 'sketch_noise_end', 'coarse_noise_start', 'coarse_noise_end',
                     'fine_noise_start', 'fine_noise_end', 'start_width', 'final_noise', 'prior_weight', 'ridge',
                     'centre_power', 'jpeg_centre_power', 't_power'):
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
