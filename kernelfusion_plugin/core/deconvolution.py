"""Constrained least squares in the frequency domain, and the LR-space equivalent of an HR blur.

From DCLS (Luo, Huang, Yu, Li, Fan, Liu, CVPR 2022, "Deep Constrained Least Squares for Blind Image Super-Resolution").
``⊛`` is circular *convolution*: kernels for cross-correlation must be flipped on both axes first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# For lr_space_kernel, chosen on crops of two photographs with three blurs:
RIDGE = 1e-2  # added to the sharp picture's power spectrum, as a fraction of its mean
NEGLIGIBLE = 0.05  # kernel entries below this fraction of the maximum are noise


def constrained_least_squares(g: Tensor, k: Tensor, p: Tensor) -> Tensor:
    """The f that minimises ||k ⊛ f - g||² + ||p ⊛ f||², channel by channel:

        𝓕(f) = conj(𝓕(k)) · 𝓕(g) / (|𝓕(k)|² + |𝓕(p)|²).

    Args:
        g: blurred features (B, C, H, W).
        k: kernels (B, 1 or C, K, K), odd K, centre (K - 1) / 2.
        p: smoothness filters (B, 1 or C, P, P), odd P, such as a Laplacian, whose response is kept small.

    Returns:
        (B, C, H, W), differentiable in all three.

    Raises:
        ValueError: a kernel's size is even or exceeds that of g.
    """
    size = g.shape[-2:]
    K, P = transfer_function(k, size), transfer_function(p, size)
    power = K.abs().square() + P.abs().square()
    return torch.fft.irfft2(K.conj() * torch.fft.rfft2(g) / power, s=size)


def transfer_function(k: Tensor, size: tuple[int, int]) -> Tensor:
    """𝓕(k) (…, H, W // 2 + 1) of a kernel (…, K, K) placed on a grid of ``size`` with its centre at (0, 0).

    Raises:
        ValueError: the kernel's size is even or exceeds that of the grid.
    """
    side = k.shape[-1]
    if side % 2 == 0 or side > min(size):
        raise ValueError(f'the kernel size must be odd and at most that of the picture {tuple(size)}, got {side}')
    grid = F.pad(k, (0, size[1] - side, 0, size[0] - side))
    return torch.fft.rfft2(grid.roll((-(side // 2), -(side // 2)), dims=(-2, -1)))


def lr_space_kernel(x: Tensor, y: Tensor, size: int) -> Tensor:
    """The kernel k' in LR pixels such that y ≈ x ⊛ k', by least squares over all channels c:

        𝓕(k') = Σ_c conj(𝓕(x_c)) · 𝓕(y_c) / (Σ_c |𝓕(x_c)|² + ridge).

    If x is the picture downscaled without blur and y the LR image, this is the target of DCLS's Estimator (whose paper
    treats each channel separately, without a ridge). x and y are first multiplied by a sine window, since pictures are
    not periodic, and entries below :data:`NEGLIGIBLE` times the maximum are set to 0. On 64 x 64 LR crops of two
    photographs at x4 with Gaussians of sigma 2.5 and 4, x ⊛ k' leaves 3 to 19 % of the difference between x and y;
    without window and threshold, half of it or more.

    Args:
        x, y: (B, C, h, w).
        size: K', odd, at most h and w.

    Returns:
        (B, 1, K', K'), sums to 1.

    Raises:
        ValueError: the size is even or too large.
    """
    shape = tuple(x.shape[-2:])
    if size % 2 == 0 or size > min(shape):
        raise ValueError(f'the LR-space kernel size must be odd and at most that of the picture {shape}, got {size}')
    at = [torch.arange(0.5, n, dtype=x.dtype, device=x.device) / n for n in shape]
    window = torch.outer(*(torch.sin(torch.pi * each) for each in at))
    mean = (x * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
    X, Y = (torch.fft.rfft2((each - mean) * window) for each in (x, y))
    power = X.abs().square().sum(1, keepdim=True)
    ridge = RIDGE * power.mean(dim=(-2, -1), keepdim=True) + 1e-12
    k = torch.fft.irfft2((X.conj() * Y).sum(1, keepdim=True) / (power + ridge), s=shape)
    k = k.roll((size // 2, size // 2), dims=(-2, -1))[..., :size, :size]
    k = k * (k > NEGLIGIBLE * k.amax(dim=(-2, -1), keepdim=True))
    return k / k.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
