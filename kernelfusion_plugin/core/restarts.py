"""Searches for a kernel, each from other noise, and which of the kernels that they find is the likeliest."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from .degradation import Degradation
from .diffusion import Prior, timesteps
from .em_config import EmConfig
from .em_steps import area, first_estimate, reverse_pass
from .frame import Frame
from .kernel_search import cut_piece, find_kernel, most_passes, unsure_rims
from .likelihood import nll
from .noise import CLEAN, Noise
from .state import EmPlace, Phase2State

JUDGED = 128  # LR pixels: side of the piece that kernels are judged on
AREA_WEIGHT = 0.7  # of ln(area): on ten pieces of which three searches each were at hand 0.6 to 4 ranked 10 or 11 of 12
                   # pairs rightly, on ten others 0.5 to 0.8 all 5 (docs/tried.md)


def search(y: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, generator: Generator, noise: Noise,
           place: EmPlace, total: int, start: Tensor | None = None,
           frame: Frame | None = None) -> Iterator[Phase2State]:
    """``em.searches`` times :func:`~.kernel_search.find_kernel`, in a run of ``total`` steps, whose place it keeps.

    ``place.best`` is then the kernel that was found; of several the one that :func:`surprise` finds the likeliest.
    """
    for _ in range(place.searches, config.searches):
        for t, picture, found, residual in find_kernel(y, prior, degradation, config, generator, noise, place, start,
                                                       frame):
            place.step += 1
            yield Phase2State(place.step, total, t, picture, found, {'residual': residual}, place.snapshot)
        several = config.searches > 1
        place.end_search(surprise(y, place.found, prior, degradation, config, frame) if several else None)


def search_steps(config: EmConfig, sketch: bool = True) -> int:
    """The most steps that :func:`search` takes; without the ``sketch`` where each search is given its start."""
    return config.searches * config.steps * sum(most_passes(config, sketch).values())


def surprise(y: Tensor, kernel: Tensor, prior: Prior, degradation: Degradation, config: EmConfig,
             frame: Frame | None = None) -> float:
    """How unlikely y is under ``kernel``: :func:`mean_nll` of y's most informative piece plus 0.7 ln A.

    The noise is the same for all kernels, so they differ by themselves only. A is the kernel's :func:`~.em_steps.area`.
    The prior takes photographs for sharper than they are, so under a kernel that is too wide y is likelier than under
    the true one; that much more likely it has to be.
    """
    piece, _ = cut_piece(y, JUDGED, unsure_rims(y, frame, config))
    return (mean_nll(piece, kernel, prior, degradation, config, 0)
            + AREA_WEIGHT * math.log(area(kernel, degradation.scale)))


def mean_nll(y: Tensor, kernel: Tensor, prior: Prior, degradation: Degradation, config: EmConfig, seed: int,
             noise: Noise = CLEAN) -> float:
    """The mean of :func:`~.likelihood.nll` over the levels of a pass, at the picture that the pass makes of y.

    ``seed`` is of the noise: with the same one, kernels differ by themselves only.
    """
    levels = timesteps(config.final_t_start, config.steps, config.t_power)
    start = first_estimate(y, kernel, degradation, config)
    *_, (_, x) = reverse_pass(start, kernel, y, prior, degradation, config, None, levels,
                              noise.added_to(config.final_noise), 'none')
    generator = torch.Generator(y.device).manual_seed(seed)
    between = levels[1:-1] or levels[:1]
    return sum(nll(y, x, kernel, prior, degradation, t, generator) for t in between) / len(between)
