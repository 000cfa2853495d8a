"""Quick estimate of a picture's blur width before the kernel search: does the blur fit into the kernel's grid?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import KernelFusionConfig
from .degradation import Degradation
from .diffusion import Prior
from .em import pose
from .em_config import EmConfig
from .em_state import EmPlace
from .em_steps import above_floor, em_passes
from .frame import Frame
from .kernel_search import adapted
from .kernels import gaussian
from .noise import white_noise
from .piece import cut_piece, on_piece, unsure_rims
from .stages import kernel_stages

LEAST_SIDE = 64  # LR pixels, shorter side of y. On smaller or less textured pictures the kernel always comes out wide
LEAST_AREA = 80 * 80
LEAST_TEXTURE = 0.02  # range [-1, 1], see texture()
GRID_SHARE = 0.45  # a blur seems wider than the grid if its spread exceeds this fraction of its side (docs/tried.md)
LEAST_GRID = 6.0  # LR pixels: smaller grids are judged by this side, since fitting blurs can come out as wide there


def spread(kernel: Tensor) -> float:
    """Standard deviation of a kernel's (K, K) mass along its direction of largest spread, in kernel pixels."""
    mass = kernel.double().cpu() / float(kernel.sum())
    at = torch.arange(len(mass), dtype=torch.float64)
    rows, columns = mass.sum(1), mass.sum(0)
    down, right = at - (at * rows).sum(), at - (at * columns).sum()
    both = (down[:, None] * right * mass).sum()
    covariance = torch.stack([torch.stack([(down ** 2 * rows).sum(), both]),
                              torch.stack([both, (right ** 2 * columns).sum()])])
    return float(torch.linalg.eigvalsh(covariance)[-1].clamp_min(0).sqrt())


@torch.no_grad()
def blur_spread(y: Tensor, prior: Prior, config: KernelFusionConfig) -> float | None:
    """:func:`spread` of the blur in y (1, 3, h, w), [-1, 1], in LR pixels; limited to twice the kernel's grid.

    Measured on the kernel that the first search stage finds for y at half its size, where the grid extends twice as
    far. Uses em's default settings, whatever the run's, since the thresholds here were determined with those. Takes
    about a hundredth of the search's time. None if y is too small or has too little texture to tell.
    """
    degradation, em = Degradation(config.scale, config.kernel_size, config.border), EmConfig()
    top, bottom, left, right = unsure_rims(y, Frame.of(y, degradation), em)
    y = y[..., top:y.shape[-2] - bottom, left:y.shape[-1] - right].float()
    height, width = y.shape[-2:]
    if min(height, width) < LEAST_SIDE or height * width < LEAST_AREA or texture(y) < LEAST_TEXTURE:
        return None
    half, generator = F.avg_pool2d(y, 2), torch.Generator(y.device).manual_seed(0)
    problem = pose(half, prior, degradation, em, generator)
    piece, _ = cut_piece(half, em.kernel_side // 2, white=problem.white)
    problem = adapted(on_piece(problem, piece))
    stage = kernel_stages(degradation, problem.config, problem.noise)[0]
    place = EmPlace(kernel=gaussian(stage.degradation.kernel_size, sigmas=em.start_width).to(piece))
    for _ in em_passes(problem, stage, place):
        pass
    return 2 * spread(above_floor(place.kernel, em.kernel_floor))


def texture(y: Tensor) -> float:
    """RMS difference between neighbouring pixels of y (1, C, h, w), less twice the contribution of white noise."""
    mean = float(y.diff(dim=-1).square().mean() + y.diff(dim=-2).square().mean()) / 2
    return math.sqrt(max(0.0, mean - 4 * white_noise(y) ** 2))


def seems_wider(y: Tensor, prior: Prior, config: KernelFusionConfig) -> bool:
    """Whether the blur in y seems too wide for the grid of ``kernel_size``.

    The found kernel alone does not reveal this: it may be a blob that touches no edge, and the picture stays blurred.
    """
    found = blur_spread(y, prior, config)
    return found is not None and found > GRID_SHARE * max(config.kernel_size / config.scale, LEAST_GRID)
