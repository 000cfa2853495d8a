"""Blur kernels given by formulas; see ``kernel_align`` for alignment and ``kernel_files`` for files.

All are float32 (K, K) tensors on the CPU that sum to 1, oriented for cross-correlation with the image: rows go down
(y), columns to the right (x), and the centre is (K - 1) / 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .kernel_align import centre, normalise


def delta(size: int) -> Tensor:
    """No blur: all mass in the centre, for even K shared by the four central pixels."""
    k = torch.zeros(_checked(size), size)
    k[(size - 1) // 2:size // 2 + 1, (size - 1) // 2:size // 2 + 1] = 1
    return normalise(k)


def gaussian(size: int, covariance: list[list[float]] | Tensor | None = None, *,
             sigmas: float | tuple[float, float] | None = None, theta: float = 0.0,
             centre: tuple[float, float] | None = None) -> Tensor:
    """exp(-½ dᵀ C⁻¹ d) at the pixels, d = (x, y) from the centre, normalised.

    Args:
        size: K.
        covariance: C in pixels², [[xx, xy], [xy, yy]] with x to the right and y down.
        sigmas: standard deviations in pixels, instead of C: one, or one along each of the axes rotated by ``theta``.
        theta: angle in radians, from the x axis towards the y axis (clockwise on screen).
        centre: (y, x), default (K - 1) / 2 on both axes.

    Raises:
        ValueError: not exactly one of covariance and sigmas, or C not symmetric positive definite.
    """
    if (covariance is None) == (sigmas is None):
        raise ValueError('a Gaussian kernel needs either covariance or sigmas, and not both')
    if covariance is None:
        sigma_u, sigma_v = (sigmas, sigmas) if isinstance(sigmas, (int, float)) else sigmas
        cos, sin = math.cos(theta), math.sin(theta)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        cov = turn @ torch.diag(torch.tensor([sigma_u, sigma_v], dtype=torch.float64) ** 2) @ turn.T
    else:
        cov = torch.as_tensor(covariance, dtype=torch.float64)
    if cov.shape != (2, 2) or not torch.allclose(cov, cov.T) or torch.linalg.eigvalsh(cov)[0] <= 0:
        raise ValueError(f'a Gaussian needs a symmetric positive definite 2 x 2 covariance, got {cov.tolist()}')
    cy, cx = ((size - 1) / 2,) * 2 if centre is None else centre
    at = torch.arange(_checked(size), dtype=torch.float64)
    y, x = torch.meshgrid(at - cy, at - cx, indexing='ij')
    d = torch.stack([x, y], dim=-1)
    exponent = -0.5 * torch.einsum('ijm,mn,ijn->ij', d, torch.linalg.inv(cov), d)
    return normalise((exponent - exponent.max()).exp()).float()


def edge_share(kernel: Tensor) -> float:
    """Fraction of a kernel's (K, K) mass that lies on the outermost pixels of its grid, in [0, 1]."""
    return 1 - float(kernel[1:-1, 1:-1].sum() / kernel.sum())


def square(size: int = 24, side: int = 16) -> Tensor:
    """A solid square of ``side`` pixels in the middle (Blind144 k_2); size - side must be even."""
    k = torch.zeros(_checked(size), size)
    top = _margin(size, side)
    k[top:top + side, top:top + side] = 1
    return normalise(k)


def hollow_square(size: int = 24, side: int = 16, hole: int = 8) -> Tensor:
    """A square of ``side`` pixels with a square hole of ``hole`` pixels in the middle (Blind144 k_1)."""
    k = square(size, side)
    top = _margin(size, hole)
    if not 0 <= hole < side:
        raise ValueError(f'the hole must be smaller than the square of {side}, got {hole}')
    k[top:top + hole, top:top + hole] = 0
    return normalise(k)


def l_shape(size: int = 24, arm: int = 16, width: int = 4) -> Tensor:
    """An L with its centre of mass moved to the grid's centre by a bilinear shift (Blind144 k_0).

    Drawn in the central ``arm`` x ``arm`` pixels: the left ``width`` columns and the bottom ``width`` rows.
    """
    if not 0 < width <= arm:
        raise ValueError(f'the width of the L must be between 1 and its arm {arm}, got {width}')
    k = torch.zeros(_checked(size), size, dtype=torch.float64)
    top = _margin(size, arm)
    k[top:top + arm, top:top + width] = 1
    k[top + arm - width:top + arm, top:top + arm] = 1
    return centre(k).float()


def blind144_synthetic() -> Tensor:
    """(4, 24, 24): k_0 … k_3 of Blind144: L, hollow square, square and Gaussian."""
    return torch.stack([l_shape(), hollow_square(), square(), gaussian(24, [[5.0, 3.0], [3.0, 5.0]])])


def motion(size: int, seed: int | torch.Generator = 0, *, extent: float = 0.75, blur: float = 0.6,
           steps: int = 2000) -> Tensor:
    """Camera shake: the path of a point of light during the exposure, centred on its centre of mass.

    Model (our own): the hand's velocity is an Ornstein-Uhlenbeck process, v' = ρ v + √(1 - ρ²) n with
    ρ = exp(-1 / (0.2 · steps)), so that it keeps its direction for a fifth of the exposure. Tremor is a second such
    process with a tenth of the correlation time and 0.3 times the speed. The path, the
    integral of the summed velocities, is scaled to ``extent``, drawn by bilinear splats at equal time steps, and
    blurred by a Gaussian (the lens).

    Args:
        size: K.
        seed: an integer, or a CPU Generator to draw from.
        extent: largest distance of the path from its centre of mass, as a fraction of the available room, (0, 1].
        blur: sigma of the optical blur in pixels; 0: none.
        steps: time steps of the exposure.
    """
    if not 0 < extent <= 1 or blur < 0 or steps < 2:
        raise ValueError(f'motion needs 0 < extent <= 1, blur >= 0 and steps >= 2, got {extent}, {blur}, {steps}')
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    hand = _ornstein_uhlenbeck(steps, 0.2, generator)
    tremor = _ornstein_uhlenbeck(steps, 0.2 / 10, generator)
    path = (hand + 0.3 * tremor).cumsum(0)
    path = path - path.mean(0)
    middle = (_checked(size) - 1) / 2
    room = max(middle - 2.5 * blur, 0.0)
    path = path * (extent * room / path.norm(dim=1).max().clamp_min(1e-12))
    k = _splat(path + middle, size)
    if blur > 0:
        lens = torch.arange(size, dtype=torch.float64)
        lens = torch.exp(-0.5 * ((lens[:, None] - lens) / blur) ** 2)
        k = lens @ k @ lens
    return centre(k).float()


def _ornstein_uhlenbeck(steps: int, time: float, generator: torch.Generator) -> Tensor:
    """(steps, 2) samples of unit variance whose autocorrelation falls to 1/e after ``time`` · steps."""
    rho = math.exp(-1 / (time * steps))
    noise = torch.randn(steps, 2, generator=generator, dtype=torch.float64)
    noise[1:] *= math.sqrt(1 - rho ** 2)  # the first sample is from the stationary distribution
    values = [noise[0]]
    for n in noise[1:]:
        values.append(rho * values[-1] + n)
    return torch.stack(values)


def _splat(points: Tensor, size: int) -> Tensor:
    """Splat (N, 2) points (y, x) onto a (size, size) grid, each bilinearly onto its four neighbours."""
    corner = points.floor()
    part = points - corner
    k = points.new_zeros(size * size)
    for dy in (0, 1):
        for dx in (0, 1):
            offset = points.new_tensor([dy, dx])
            weight = (1 - (offset - part).abs()).prod(1)
            at = (corner + offset).long().clamp(0, size - 1)  # a neighbour beyond the last pixel has weight 0
            k.index_add_(0, at[:, 0] * size + at[:, 1], weight)
    return k.reshape(size, size)


def _checked(size: int) -> int:
    if size < 1:
        raise ValueError(f'a kernel needs a size of at least 1, got {size}')
    return size


def _margin(size: int, side: int) -> int:
    if not 0 <= side <= size or (size - side) % 2:
        raise ValueError(f'a square of {side} cannot be centred on a grid of {size}: '
                         'it must be no larger, and both must be even or both odd')
    return (size - side) // 2
