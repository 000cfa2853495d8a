"""Several searches for a kernel, each from other noise, of which the likeliest kernel is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .diffusion import timesteps
from .em_config import EmConfig
from .em_state import EmPlace, EmProblem, EmStep
from .em_steps import area, first_estimate, reverse_pass, told_by, with_weak_parts
from .kernel_search import adapted, find_kernel
from .likelihood import nll
from .noise import CLEAN
from .piece import cut_piece, on_piece, unsure_rims
from .stages import most_passes

JUDGED = 128  # LR pixels: side of the piece that kernels are judged on
AREA_WEIGHT = 0.7  # of ln(area): on ten pieces with three searches each, 0.6 to 4 ranked 10 or 11 of 12 pairs rightly,
                   # on ten others 0.5 to 0.8 all 5 (docs/tried.md)


def search(problem: EmProblem, place: EmPlace, start: Tensor | None = None) -> Iterator[EmStep]:
    """``em.searches`` times :func:`~.kernel_search.find_kernel`, from ``place`` on.

    ``place.best`` is then the kernel found, its weak parts made up for unless y's frame has told their share; of
    several the one that :func:`surprise` finds the likeliest.
    """
    searches, power = problem.config.searches, adapted(problem).config.density_power
    for _ in range(place.searches, searches):
        yield from find_kernel(problem, place, start)
        if not any(told_by(problem.frame, problem.config)):
            place.found = with_weak_parts(place.found, problem.degradation.scale, power)
        place.end_search(surprise(problem, place.found) if searches > 1 else None)


def search_steps(config: EmConfig, sketch: bool = True) -> int:
    """The most steps that :func:`search` takes; without the ``sketch`` where each search is given its start."""
    return config.searches * config.steps * sum(most_passes(config, sketch).values())


def surprise(problem: EmProblem, kernel: Tensor) -> float:
    """How unlikely y is under ``kernel``: :func:`mean_nll` of y's most informative piece plus 0.7 ln A.

    The noise is the same for all kernels, so only they make the difference. A is the kernel's :func:`~.em_steps.area`.
    The prior takes photographs for sharper than they are, so under a kernel that is too wide y is likelier than under
    the true one; a wider kernel has to be that much likelier.
    """
    y, config = problem.y, problem.config
    piece, _ = cut_piece(y, JUDGED, unsure_rims(y, problem.frame, config), problem.white)
    return (mean_nll(replace(on_piece(problem, piece), noise=CLEAN), kernel, 0)
            + AREA_WEIGHT * math.log(area(kernel, problem.degradation.scale)))


def mean_nll(problem: EmProblem, kernel: Tensor, seed: int) -> float:
    """The mean of :func:`~.likelihood.nll` over the levels of a pass, at the picture that the pass makes of y.

    Args:
        problem: at the full scale; draws no noise from its generator.
        kernel: (K, K).
        seed: of the noise: with the same one, only the kernels make the difference.
    """
    y, config = problem.y, problem.config
    levels = timesteps(config.final_t_start, config.steps, config.t_power)
    place = EmPlace(x=first_estimate(problem, kernel))
    *_, (_, x) = reverse_pass(problem, kernel, problem.noise.added_to(config.final_noise), levels, 'none', place)
    generator = torch.Generator(y.device).manual_seed(seed)
    between = levels[1:-1] or levels[:1]
    return sum(nll(y, x, kernel, problem.prior, problem.degradation, t, generator, problem.white)
               for t in between) / len(between)
