"""How long a run will take on this machine: a few of its own steps are timed, the rest follows from their number.

Steps of Phase 1 cost the same whatever the picture. Those of Phase 2 grow with the area that they work on: the piece
on which em finds the kernel, and the whole picture; they are timed on a small cut.
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
from .core.em import solve_em
from .core.em_config import EmConfig
from .core.kernel_search import attempts, cut_piece, kernel_stages
from .core.nets.patch_net import PatchDiffusionNet
from .core.patch_prior import PatchPrior, fit_patch_prior
from .core.regional_degradation import OVERLAP, RegionalDegradation, choose_grid
from .core.regions import solve_regions
from .core.restore import phase1_images
from .core.solvers import SOLVERS, Problem, final_prior, kernel_prior
from .core.texture_prior import load_texture_net, load_texture_prior

SIDE = 64  # of the cut, LR pixels
ONE = '1x1'  # regions
STEPS = 4  # that are timed of each kind, the first of which warms up


@dataclass(frozen=True)
class Term:
    """Work that grows with the area it is done on.

    Attributes:
        seconds: of all of it, were the picture the cut that was timed.
        degradation: its forward model, which says how large an estimate is.
        side: it is done on a piece of at most this side, LR pixels; 0: on the whole picture.
        regions: as in the config, where the work depends on it.
        several: it is done only where the picture has several regions (True), or only one (False); None: always.
        each: it is done on a piece of each region.
        area: of the cut's estimate, pixels.
        constant: the share that is the same whatever the area.
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
        """Seconds for a picture of (h, w)."""
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
    """What steps cost on this machine: :meth:`seconds` of a run by phase, named as in Progress."""

    phase1: dict[str, float]
    solver: str
    phase2: list[Term]

    def seconds(self, size: tuple[int, int]) -> dict[str, float]:
        """For a picture of (h, w) LR pixels."""
        return {**self.phase1, self.solver: sum(term.at(size) for term in self.phase2)}


def measure_pace(y: Tensor, config: KernelFusionConfig, kernel: Tensor | None = None) -> Pace:
    """Run a few steps of each kind on y (1, 3, h, w) and its device; nothing of them is kept."""
    with torch.random.fork_rng(devices=[]):
        seconds, priors = {}, {}
        schedule = Schedule(config.prior.timesteps)
        for phase, (image, prior) in phase1_images(y, config, kernel is not None).items():
            net = load_texture_net() if phase == 'tuned' else PatchDiffusionNet(config.prior.channels)
            net.to(y.device)
            states = fit_patch_prior(net, image, schedule, prior, torch.Generator(y.device))
            seconds[phase] = _pace(islice(states, STEPS)) * prior.steps
            priors[phase] = PatchPrior(net, schedule, config.prior.precision)
        if config.uses_textures:
            priors['textures'] = load_texture_prior(y.device, config.prior.precision)
        terms = (_em if config.solver == 'em' else _each_step_alike)(cut_piece(y, SIDE)[0], priors, config, kernel)
    return Pace(seconds, config.solver, terms)


def _em(cut: Tensor, priors: dict[str, PatchPrior], config: KernelFusionConfig, kernel: Tensor | None) -> list[Term]:
    """Each stage's steps, the M steps that end its passes, and the final passes."""
    full, em, size = Degradation(config.scale, config.kernel_size, config.border), config.em, cut.shape[-2:]
    few = dataclasses.replace(em, **{f'{stage}_passes': min(2, getattr(em, f'{stage}_passes'))
                                     for stage in ('sketch', 'coarse', 'fine')},
                              searches=1, rim=0, uncertainty=1.0 if em.uncertainty is None else em.uncertainty,
                              final_samples=min(1, em.final_samples), final_steps=max(2, min(STEPS, em.final_steps)))
    steps, area = max(1, em.final_samples) * em.final_steps, _area(size, full)
    if kernel is not None and kernel.ndim == 4:  # one for each region: any two of them
        return [Term(steps * _under_two(cut, priors, full, few, kernel.flatten(0, 1)[:2]), full, 0, area)]
    times = _times(solve_em(cut, final_prior(priors, em), full, few, torch.Generator(cut.device), kernel,
                            kernel_prior(priors)))
    terms = []
    for stage, planned in zip(kernel_stages(full, few), kernel_stages(full, em)) if kernel is None else ():
        passes = [list(islice(times, em.steps)) for _ in stage.sigmas]
        step = median([seconds for one in passes for seconds in one[:-1] or one][1:] or passes[0])
        m_step = max(0.0, passes[-1][-1] - step)
        trials = max(1, len(planned.uncertainties)) + len(attempts(em)) - 1
        count = em.searches * len(planned.sigmas) * trials  # all that may be
        stage_area = _area(size, stage.degradation)
        searches = [Term(count * em.steps * step, stage.degradation, em.kernel_side, stage_area),
                    Term(count * m_step, stage.degradation, em.kernel_side, stage_area, constant=0.5)]
        terms += searches
        if config.regions != ONE and stage.degradation.scale > 1:  # regions begin behind the sketch
            terms += [dataclasses.replace(term, regions=config.regions, several=True, each=True) for term in searches]
    final = Term(steps * median(list(times)[1:]), full, 0, area)
    if config.regions != ONE and kernel is None:  # two passes that compare kernels, and the final ones under any two
        terms.append(Term(2 * em.steps * step, full, em.kernel_side, area, 0.0, config.regions, True, each=True))
        pair = torch.rand(2, full.kernel_size, full.kernel_size, device=cut.device)
        final = dataclasses.replace(final, regions=config.regions, several=False)
        seconds = steps * _under_two(cut, priors, full, few, pair / pair.sum((-2, -1), keepdim=True))
        terms.append(dataclasses.replace(final, seconds=seconds, several=True))
    return [*terms, final]


def _under_two(cut: Tensor, priors: dict[str, PatchPrior], full: Degradation, em: EmConfig, pair: Tensor) -> float:
    """Seconds of a step of the final passes where two regions have the kernels ``pair`` (2, K, K)."""
    times = _times(solve_regions(cut, final_prior(priors, em), RegionalDegradation(full, cut.shape[-2:], (1, 2)), em,
                                 torch.Generator(cut.device), pair[None].to(cut.device)))
    return median(list(times)[1:])


def _each_step_alike(cut: Tensor, priors: dict[str, PatchPrior], config: KernelFusionConfig,
                     kernel: Tensor | None) -> list[Term]:
    """Any solver whose steps all do the same, on all of the picture: ``joint``."""
    degradation = Degradation(config.scale, config.kernel_size, config.border)
    states = SOLVERS[config.solver].solve(
        Problem(cut, config, degradation, priors, torch.Generator(cut.device),
                lambda purpose, factory: factory().to(cut.device), {}, kernel))
    steps = [(seconds, state.total) for seconds, state in islice(_timed(states), STEPS)]
    times, total = [seconds for seconds, _ in steps], steps[-1][1]
    return [Term(median(times[1:] or times) * total, degradation, 0, _area(cut.shape[-2:], degradation))]


def _area(size: tuple[int, int], degradation: Degradation) -> float:
    height, width = degradation.hr_size(size)
    return height * width


def _timed(states: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """(seconds, state) of each step."""
    start = time.perf_counter()
    for state in states:
        yield time.perf_counter() - start, state
        start = time.perf_counter()


def _times(states: Iterable[Any]) -> Iterator[float]:
    """Seconds of each step."""
    return (seconds for seconds, _ in _timed(states))


def _pace(states: Iterable[Any]) -> float:
    """Seconds of a step, the first left out."""
    times = list(_times(states))
    return median(times[1:] or times)
