"""Phase 2 by diffusion EM where the blur changes over the picture: a kernel for each region of a grid.

1. The whole picture's kernel, as in ``em``.
2. Starting from that kernel, the coarse and the fine stage on each region and its share of the bands between regions.
   They go far enough to get away from a mixture, which is what the first kernel is where the blurs differ much.
3. A region keeps its own kernel only if that differs from the whole picture's and makes the region likelier
   (:func:`takes_own`). Where there is little texture, or the same blur as everywhere, the region takes the whole
   picture's: what is found on a part of the data is less certain.
4. The final passes under all kernels at once (:class:`~.regional_degradation.RegionalDegradation`): one picture.

A shift between x and k cannot be seen in y, so all kernels are centred by one rule, em's. A black frame around y is
used for the whole picture's only: the light at a region's part of the frame has come through several kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from .degradation import to_canvas
from .diffusion import Prior
from .em import check_levels, counted, final_passes, final_steps, pose
from .em_config import EmConfig
from .em_state import EmPlace, EmProblem, EmStep
from .frame import Frame
from .metrics import kernel_ncc
from .piece import cut_piece, on_piece, paste, unsure_rims
from .regional_degradation import RegionalDegradation
from .restarts import mean_nll, search, search_steps
from .state import Phase2State

SAME = 0.9  # correlation above which two kernels count as one


def solve_regions(y: Tensor, prior: Prior, degradation: RegionalDegradation, config: EmConfig, generator: Generator,
                  kernels: Tensor | None = None, kernel_prior: Prior | None = None,
                  resume: Mapping[str, Any] | None = None) -> Iterator[Phase2State]:
    """:func:`~.em.solve_em` with a kernel per region: estimates x and all k from y; yields after every step.

    Args:
        degradation: the forward model, which says where the regions are.
        kernels: the known kernels (R, C, K, K); only the final passes are done then.

    States have the whole picture's kernel (the mean of known ones) as ``kernel``, and those of the regions as
    ``kernels`` once all are found. If no region has its own, the picture is solve_em's, to the bit (with
    ``final_samples`` 0: otherwise the final passes draw random numbers, after those that the search has drawn).
    """
    kernel_prior = kernel_prior or prior
    check_levels(config, prior, kernel_prior)
    problem = pose(y, kernel_prior, degradation.everywhere, config, generator)
    place = EmPlace.at(resume, y.device)
    total = final_steps(config)
    if kernels is None:
        total += search_steps(config) + math.prod(degradation.grid) * search_steps(config, sketch=False)
        yield from counted(_find_kernels(problem, degradation, place), place, total)
        whole, kernels = place.kernels[0], place.kernels[1:].unflatten(0, degradation.grid)
    else:
        whole = kernels.mean((0, 1))
    if bool((kernels == kernels[:1, :1]).all()):
        blur, used = degradation.everywhere, kernels[0, 0]
    else:
        blur, used = degradation, kernels
    final = replace(problem, prior=prior, degradation=blur)
    for state in counted(final_passes(final, used, place), place, total):
        yield replace(state, kernel=whole, kernels=kernels)


def _find_kernels(problem: EmProblem, degradation: RegionalDegradation, place: EmPlace) -> Iterator[EmStep]:
    """Steps 1 to 3, from ``place`` on; ``place.kernels`` has the whole picture's kernel, then each region's."""
    y, one, config = problem.y, problem.degradation, problem.config
    frame = Frame.of(y, one)
    if place.kernels is None:
        yield from search(replace(problem, frame=frame), place)
        place.end_region(place.best)
    whole, canvas, rims = place.kernels[0], to_canvas(y, degradation), unsure_rims(y, frame, config)
    config = replace(config, rim=0)  # the pieces leave them out already
    for at, piece in _pieces(y, degradation, config.kernel_side, rims, problem.white)[len(place.kernels) - 1:]:
        region = replace(on_piece(problem, piece), config=config)
        for step in search(region, place, whole):
            canvas = paste(step.x0_hat, one, canvas, one, at)
            yield step._replace(x0_hat=canvas)
        place.end_region(place.best if takes_own(region, place.best, whole) else whole)


def _pieces(y: Tensor, degradation: RegionalDegradation, side: int, rims: tuple[int, int, int, int],
            white: float | None = None) -> list[tuple[tuple[int, int], Tensor]]:
    """What each region's kernel is found on: its most informative piece, after the LR pixel at that one's top left.

    Pieces keep ``rims`` pixels away from y's top, bottom, left and right, where the region is large enough.
    """
    above, below, before, after = rims
    pieces = []
    for rows, cols, _ in degradation.regions():
        rows, cols = _inside(rows, above, y.shape[-2] - below), _inside(cols, before, y.shape[-1] - after)
        piece, (top, left) = cut_piece(y[..., rows, cols], side, white=white)
        pieces.append(((rows.start + top, cols.start + left), piece))
    return pieces


def _inside(part: slice, first: int, last: int) -> slice:
    """The part of ``part`` that lies in [first, last), or all of it if that is less than half."""
    inside = slice(max(part.start, first), min(part.stop, last))
    return inside if 2 * (inside.stop - inside.start) >= part.stop - part.start else part


def takes_own(problem: EmProblem, own: Tensor, whole: Tensor) -> bool:
    """Whether ``own``, found on the problem's y, differs from the whole picture's kernel, and makes y likelier."""
    if kernel_ncc(own, whole) > SAME:
        return False
    generator = problem.generator
    seed = int(torch.randint(2 ** 31, (1,), generator=generator, device=generator.device))
    mine, others = (mean_nll(problem, kernel, seed) for kernel in (own, whole))
    return mine < others
