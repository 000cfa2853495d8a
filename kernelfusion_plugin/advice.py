"""What a user is told about a kernel: its grid seems too small for the blur, or the picture cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

from torch import Tensor

from .core.blur_width import seems_wider
from .core.config import MAX_KERNEL, KernelFusionConfig
from .core.kernels import edge_share
from .core.restore import Progress, Result
from .core.texture_prior import load_texture_prior

CUT = 0.05  # part of a kernel's mass on its grid's edge from which it seems cut
FLAT = 8 / 255  # difference of neighbouring pixels, range [-1, 1], below which there is nothing but noise


def with_blur_warning(steps: Generator[Progress, None, Result], y: Tensor, config: KernelFusionConfig,
                      say: Callable[[str], object], shrink: str = '') -> Generator[Progress, None, Result]:
    """``steps`` of a run on y; behind the first, when nothing can be refused any more, :func:`blur_warning` is said."""
    first = next(steps)
    if warning := blur_warning(y, config, shrink):
        say(warning)
    yield first
    return (yield from steps)


def blur_warning(y: Tensor, config: KernelFusionConfig, shrink: str = '') -> str | None:
    """Before the search: the blur in y (1, 3, h, w), [-1, 1], seems wider than the kernel's grid.

    ``shrink`` is the option that makes the picture smaller, where there is one.
    """
    prior = load_texture_prior(y.device, config.prior.precision, weights=config.texture_weights)
    if not seems_wider(y, prior, config):
        return None
    size = config.kernel_size
    return (f'the blur seems to be wider than the {size / config.scale:g} pixels that the {size} x {size} grid of its '
            f'kernel spans: if the result stays blurred, {_make_smaller(shrink)}')


def kernel_warning(y: Tensor, kernel: Tensor, option: str, shrink: str = '') -> str | None:
    """Behind the search, of the kernel (K, K) that was found: y has no edges, or its grid seems to have cut it.

    ``option`` sets its size; ``shrink`` as in :func:`blur_warning`. Of the paper's kernels, on their grids of 24, at
    most 3 % of the mass lie on the edge.
    """
    if max(float(y.diff(dim=dim).abs().max()) for dim in (-2, -1)) < FLAT:
        return 'there are no edges in the picture by which a kernel can be found: the one given means nothing'
    share, size = edge_share(kernel), len(kernel)
    if share < CUT:
        return None
    wider = min(2 * math.ceil(size * 2 / 3), MAX_KERNEL)
    larger = f'try {option} {wider}, which takes longer, or ' if wider > size else ''
    return (f'{share:.0%} of the kernel lies on the edge of its {size} x {size} grid, which may have cut it: {larger}'
            f'{_make_smaller(shrink)}')


def _make_smaller(shrink: str) -> str:
    return 'make the picture smaller first' + (f' ({shrink})' if shrink else '')
