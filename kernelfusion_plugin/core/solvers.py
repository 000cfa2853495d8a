"""The solvers of Phase 2, and what a run has to know about each.

To add one, write a :class:`~.solver.Solver` in a module of its own and a line in :data:`SOLVERS`. Its settings are a
frozen dataclass: outside of this package :attr:`.Solver.settings`, in it a field of
:class:`~.config.KernelFusionConfig` of the solver's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from .degradation import Degradation
from .diffusion import Schedule
from .em import solve_em
from .em_config import FINAL_PRIORS, EmConfig
from .joint import solve_joint
from .joint_ablations import solve_ablation
from .kernel_models import Siren
from .nets.refine_unet import RefineUNet
from .patch_prior import MeanPrior, PatchPrior, PriorConfig
from .piece import check_rim
from .regional_degradation import RegionalDegradation
from .regions import solve_regions
from .solver import Factory, Problem, Solver, inference_memory
from .stages import scaled
from .state import Phase2State
from .tiles import SIDES

if TYPE_CHECKING:
    from .config import KernelFusionConfig
    from .plan import Cost

MATRICES = 8  # of em's K² x K² for the kernel that are alive at once; measured: 7


class DiffusionEM(Solver):
    """:mod:`.em`, with one kernel or, by :mod:`.regions`, several."""

    takes_kernels = takes_regions = True

    def training(self, config: KernelFusionConfig, kernel_known: bool = False) -> dict[str, PriorConfig]:
        em, ways = config.em, {}
        final = FINAL_PRIORS[em.final_prior]
        if 'prior' in final:
            ways['prior'] = config.prior
        if 'tuned' in final:
            ways['tuned'] = config.tuning.training(em.final_t_start + 1, config.prior.precision)
        if em.kernel_prior == 'internal' and not kernel_known:
            ways['half'] = replace(config.prior, batch=max(1, config.prior.batch // 2))
        return ways

    def solve(self, problem: Problem) -> Iterator[Phase2State]:
        p, solve = problem, solve_regions if isinstance(problem.degradation, RegionalDegradation) else solve_em
        return solve(p.y, final_prior(p.priors, p.config.em), p.degradation, p.config.em, p.generator, p.kernel,
                     kernel_prior(p.priors), p.resume)

    def check(self, size: tuple[int, int], config: KernelFusionConfig, kernel_known: bool) -> None:
        if not kernel_known:
            check_rim(size, config.em)

    def uses_textures(self, config: KernelFusionConfig) -> bool:
        return 'textures' in (config.em.kernel_prior, *FINAL_PRIORS[config.em.final_prior])

    def starts(self, config: KernelFusionConfig) -> dict[str, list[str]]:
        final = [prior for prior in FINAL_PRIORS[config.em.final_prior] if prior != 'tuned']  # is, to each start
        return {'t_start': ['prior' if config.em.kernel_prior == 'internal' else 'textures'], 'final_t_start': final}

    def memory(self, canvas: tuple[int, int], config: KernelFusionConfig, cost: Cost,
               kernel_known: bool) -> Iterator[tuple[int, bool, float]]:
        """Of the final passes or the search of ``draws`` pictures, whichever is more, plus the M step's matrices."""
        final = super().memory(canvas, config, cost, kernel_known)
        if kernel_known:
            yield from final
            return
        em, full = config.em, Degradation(config.scale, config.kernel_size, config.border)
        grid = scaled(full, full.scale, em.support)
        height, width = (min(n, em.kernel_side or n) for n in full.lr_size(canvas))
        piece = grid.hr_size((height, width))
        more = MATRICES * 4 * grid.kernel_size ** 4 + (em.draws - 1) * cost.images(piece)
        for (tile, recompute, need), (_, search) in zip(final, inference_memory(piece, cost, em.draws), strict=True):
            yield tile, recompute, max(need, search) + more


class Joint(Solver):
    """:mod:`.joint`, the paper's Algorithm 1, and its ablations."""

    def training(self, config: KernelFusionConfig, kernel_known: bool = False) -> dict[str, PriorConfig]:
        return {'prior': config.prior} if config.joint.uses_pd else {}

    def solve(self, problem: Problem) -> Iterator[Phase2State]:
        p, config = problem, problem.config
        make_refine_net = p.factories.get('refine') or RefineUNet
        make_kernel_model = p.factories.get('kernel') or (lambda: Siren(config.kernel_size))
        refine_net = p.build('refine_net', make_refine_net)
        kernel_model = p.build('kernel_model', make_kernel_model)
        second = p.build('refine_net_after', make_refine_net) if config.joint.separate_unets else None
        if config.joint.pipeline == 'kernelfusion':
            return solve_joint(p.y, p.priors['prior'], p.degradation, refine_net, kernel_model, config.joint,
                               p.generator, second, p.resume, p.recompute)
        return solve_ablation(p.y, p.priors.get('prior'), Schedule(config.prior.timesteps), p.degradation, refine_net,
                              kernel_model, config.joint, p.generator, p.resume)

    def starts(self, config: KernelFusionConfig) -> dict[str, list[str]]:
        return {'t_start': ['prior'] if config.joint.uses_pd else []}

    def networks(self, factories: Mapping[str, Factory | None]) -> dict[str, Factory]:
        return {'refine': factories.get('refine') or RefineUNet}

    def memory(self, canvas: tuple[int, int], config: KernelFusionConfig, cost: Cost,
               kernel_known: bool) -> Iterator[tuple[int, bool, float]]:
        """R twice and PD between, or, recomputed, R once; of the ablations, which have R once."""
        area, refine = canvas[0] * canvas[1], cost.training('refine')
        if config.joint.pipeline != 'kernelfusion':
            yield SIDES[0], False, area * refine
            return
        pd = cost.training('prior')
        yield SIDES[0], False, area * (2 * refine + pd)
        for tile in SIDES:
            yield tile, True, area * refine + cost.on_tile('prior', canvas, tile) * pd


SOLVERS: dict[str, Solver] = {'em': DiffusionEM(), 'joint': Joint()}


def final_prior(priors: Mapping[str, PatchPrior], config: EmConfig) -> PatchPrior | MeanPrior:
    """What em's final passes use of the priors at hand: ``prior`` (PD of y), ``textures``, ``tuned``."""
    final = [priors[name] for name in FINAL_PRIORS[config.final_prior]]
    return final[0] if len(final) == 1 else MeanPrior(final)


def kernel_prior(priors: Mapping[str, PatchPrior]) -> PatchPrior | None:
    """What em finds the kernel with."""
    return priors.get('half') or priors.get('textures')
