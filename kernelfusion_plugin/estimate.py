"""Estimate how long a run takes on this machine: a few of its steps are timed and multiplied by their number.

A Phase 1 step costs the same for every picture. The cost of a Phase 2 step grows with the area it works on (the crop
on which em finds the kernel, or the whole picture); it is timed on a small crop.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor

from .core.config import KernelFusionConfig
from .core.degradation import Degradation
from .core.diffusion import Schedule
from .core.em import assumed_noise
from .core.em_config import EmConfig
from .core.em_state import EmPlace, EmProblem
from .core.em_steps import em_passes
from .core.inputs import forward_model
from .core.kernels import gaussian
from .core.patch_prior import PatchPrior, fit_patch_prior
from .core.phase1 import factory, phase1_images
from .core.piece import cut_piece
from .core.regional_degradation import OVERLAP, choose_grid
from .core.seeds import own_random_state
from .core.solver import Problem
from .core.solvers import SOLVERS, kernel_prior
from .core.stages import Stage, kernel_stages, most_passes
from .core.texture_prior import load_texture_prior

SIDE = 64  # of the timed crop, LR pixels
ONE = '1x1'  # regions
STEPS = 4  # timed per kind; the first is a warm-up


@dataclass(frozen=True)
class Term:
    """Work whose time grows with the area it is done on.

    Attributes:
        seconds: total time if the picture were the timed crop.
        degradation: the forward model, which gives the size of the HR estimate.
        side: the work is done on a crop of at most this side, LR pixels; 0: on the whole picture.
        regions: as in the config, if the work depends on it.
        several: only done if the picture has several regions (True) or just one (False); None: always.
        each: done once per region, on a crop of it.
        area: area of the HR estimate of the timed crop, pixels.
        constant: fraction of the time that does not depend on the area.
    """

    seconds: float
    degradation: Degradation
    side: int
    area: float
    constant: float = 0.0
    regions: str = ONE
    several: bool | None = None
    each: bool = False

    def at(self, size: tuple[int, int]) -> float:
        """Seconds for a picture of (h, w) LR pixels."""
        grid = choose_grid(self.regions, size)
        if self.several not in (None, grid != (1, 1)):
            return 0.0
        if not self.each:
            grid = (1, 1)
        sizes = [n / count * (1 + OVERLAP if count > 1 else 1) for n, count in zip(size, grid, strict=True)]
        height, width = (min(self.side, n) if self.side else n for n in sizes)
        times = _area((height, width), self.degradation) / self.area
        return math.prod(grid) * self.seconds * (self.constant + (1 - self.constant) * times)


@dataclass(frozen=True)
class Pace:
    """Timings on this machine; :meth:`seconds` gives those of a run by phase, named as in Progress."""

    phase1: dict[str, float]
    solver: str
    phase2: list[Term]

    def seconds(self, size: tuple[int, int]) -> dict[str, float]:
        """Seconds per phase for a picture of (h, w) LR pixels."""
        return {**self.phase1, self.solver: sum(term.at(size) for term in self.phase2)}


def measure_pace(y: Tensor, config: KernelFusionConfig, kernel: Tensor | None = None) -> Pace:
    """Time a few steps of each kind on y (1, 3, h, w), on its device; their results are discarded."""
    with own_random_state():
        seconds, priors = {}, {}
        schedule = Schedule(config.prior.timesteps)
        for phase, (image, prior) in phase1_images(y, config, kernel is not None).items():
            net = factory(phase, config)().to(y.device)
            steps = fit_patch_prior(net, image, schedule, prior, torch.Generator(y.device))
            seconds[phase] = _seconds(steps, y.device)
            priors[phase] = PatchPrior(net, schedule, config.prior.precision)
        if config.uses_textures:
            priors['textures'] = load_texture_prior(y.device, config.prior.precision, weights=config.texture_weights)
        cut = cut_piece(y, SIDE)[0]
        if config.solver == 'em' and kernel is None:
            terms = [*_search(cut, priors, config), *_final_passes(cut, priors, config)]
        else:
            terms = [_steps_alike(cut, priors, config, kernel)]
    return Pace(seconds, config.solver, terms)


def _search(cut: Tensor, priors: dict[str, PatchPrior], config: KernelFusionConfig) -> list[Term]:
    """em's kernel search: the steps of each stage, and the M step that ends each pass."""
    full, em, terms = Degradation(config.scale, config.kernel_size, config.border), config.em, []
    in_regions = {'regions': config.regions, 'several': True, 'each': True}
    passes, passes_there = most_passes(em), most_passes(em, sketch=False)
    for stage, name in zip(kernel_stages(full, em, assumed_noise(cut, em)), passes):
        step, m_step = _stage_seconds(cut, kernel_prior(priors), stage, em)
        area, count = _area(cut.shape[-2:], stage.degradation), em.searches * em.draws * passes[name]
        stage_terms = [Term(count * em.steps * step, stage.degradation, em.kernel_side, area),
                       Term(count * m_step, stage.degradation, em.kernel_side, area, constant=0.5)]
        terms += stage_terms
        if config.regions != ONE and name in passes_there:
            terms += [dataclasses.replace(term, **in_regions) for term in stage_terms]
    if config.regions != ONE:  # two passes compare a region's kernel with the whole picture's
        terms.append(Term(2 * em.steps * step, full, em.kernel_side, _area(cut.shape[-2:], full), **in_regions))
    return terms


def _stage_seconds(cut: Tensor, prior: PatchPrior, stage: Stage, em: EmConfig) -> tuple[float, float]:
    """Seconds of one step of the stage, and of the M step that ends a pass."""
    uncertainty = 1.0 if em.uncertainty is None else em.uncertainty
    two = dataclasses.replace(stage, sigmas=stage.sigmas[:2], uncertainty=uncertainty)
    place = EmPlace(kernel=_wide(em.start_width, stage.degradation).to(cut))
    steps = em_passes(EmProblem(cut, prior, stage.degradation, em, torch.Generator(cut.device)), two, place)
    times = [seconds for seconds, _ in _timed(steps, cut.device)]
    step = median([seconds for number, seconds in enumerate(times, 1) if number % em.steps][1:] or times)
    return step, max(0.0, times[-1] - step)


def _final_passes(cut: Tensor, priors: dict[str, PatchPrior], config: KernelFusionConfig) -> list[Term]:
    """em's final passes: with one kernel and, if there may be regions, also with two arbitrary ones."""
    one, other = (_wide(width, Degradation(config.scale, config.kernel_size)) for width in (1.0, 2.0))
    final = _steps_alike(cut, priors, config, one)
    if config.regions == ONE:
        return [final]
    several = _steps_alike(cut, priors, config, torch.stack([one, other])[None])
    return [dataclasses.replace(final, regions=config.regions, several=False),
            dataclasses.replace(several, regions=config.regions, several=True)]


def _steps_alike(cut: Tensor, priors: dict[str, PatchPrior], config: KernelFusionConfig, kernel: Tensor | None) -> Term:
    """A Phase 2 whose steps are all alike and cover the whole picture: ``joint``, and em with a known kernel."""
    degradation = Degradation(config.scale, config.kernel_size, config.border)
    if kernel is not None:
        kernel = kernel.to(cut.device)
        if kernel.ndim == 4:  # one per region: two of them suffice
            kernel = kernel.flatten(0, 1)[None, :2]
    states = SOLVERS[config.solver].solve(
        Problem(cut, config, forward_model(cut, config, kernel), priors, torch.Generator(cut.device),
                lambda purpose, factory: factory().to(cut.device), {}, kernel))
    return Term(_seconds(states, cut.device), degradation, 0, _area(cut.shape[-2:], degradation))


def _wide(width: float, degradation: Degradation) -> Tensor:
    """A Gaussian kernel with a standard deviation of ``width`` LR pixels."""
    return gaussian(degradation.kernel_size, sigmas=width * degradation.scale)


def _area(size: tuple[int, int], degradation: Degradation) -> float:
    height, width = degradation.hr_size(size)
    return height * width


def _seconds(states: Iterable[Any], device: torch.device) -> float:
    """Total seconds of the steps behind ``states``, extrapolated from the first few."""
    steps = list(islice(_timed(states, device), STEPS))
    times = [seconds for seconds, _ in steps]
    return median(times[1:] or times) * steps[-1][1].total


def _timed(states: Iterable[Any], device: torch.device) -> Iterator[tuple[float, Any]]:
    """(seconds, state) of each step; synchronises with the GPU, which steps do not."""
    start = time.perf_counter()
    for state in states:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        yield time.perf_counter() - start, state
        start = time.perf_counter()
