"""Warnings about a kernel: its grid seems too small for the blur, or the picture does not determine it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

from torch import Tensor

from .core.blur_width import seems_wider
from .core.config import MAX_KERNEL, KernelFusionConfig
from .core.kernels import edge_share
from .core.restore import Progress, Result
from .core.texture_prior import load_texture_prior

CUT = 0.05  # fraction of a kernel's mass on the edge of its grid from which it is taken to be cut off
FLAT = 8 / 255  # neighbouring pixels ([-1, 1]) that differ by less are taken for noise


def with_blur_warning(steps: Generator[Progress, None, Result], y: Tensor, config: KernelFusionConfig,
                      say: Callable[[str], object], shrink: str = '') -> Generator[Progress, None, Result]:
    """Pass on the ``steps`` of a run on y; ``say`` :func:`blur_warning` after the first, once the input is accepted."""
    first = next(steps)
    if warning := blur_warning(y, config, shrink):
        say(warning)
    yield first
    return (yield from steps)


def blur_warning(y: Tensor, config: KernelFusionConfig, shrink: str = '') -> str | None:
    """Warning before the search that the blur in y (1, 3, h, w), [-1, 1], seems wider than the kernel's grid, or None.

    ``shrink`` is the option that reduces the picture, '' if there is none.
    """
    prior = load_texture_prior(y.device, config.prior.precision, weights=config.texture_weights)
    if not seems_wider(y, prior, config):
        return None
    size = config.kernel_size
    return (f'the blur seems to be wider than the {size / config.scale:g} pixels that the {size} x {size} kernel grid '
            f'spans: if the result stays blurred, {_make_smaller(shrink)}')


def kernel_warning(y: Tensor, kernel: Tensor, option: str, shrink: str = '') -> str | None:
    """Warning after the search that y has no edges, or that the grid seems to have cut off the found kernel (K, K).

    ``option`` sets the kernel size; ``shrink`` as in :func:`blur_warning`. The paper's kernels have at most 3 % of
    their mass on the edge of their 24 x 24 grid.
    """
    if max(float(y.diff(dim=dim).abs().max()) for dim in (-2, -1)) < FLAT:
        return 'the picture has no edges from which a kernel can be found: the kernel written is meaningless'
    share, size = edge_share(kernel), len(kernel)
    if share < CUT:
        return None
    wider = min(2 * math.ceil(size * 2 / 3), MAX_KERNEL)
    larger = f'try {option} {wider}, which takes longer, or ' if wider > size else ''
    return (f'{share:.0%} of the kernel lies on the edge of its {size} x {size} grid, which may have cut it off: '
            f'{larger}{_make_smaller(shrink)}')


def _make_smaller(shrink: str) -> str:
    return 'make the picture smaller first' + (f' ({shrink})' if shrink else '')
