"""The two quadratic problems of blind deconvolution: the image given the kernel, the kernel given the image."""

from __future__ import annotations

import torch
from torch import Tensor

from .degradation import Degradation

WINDOW_BYTES = 64 * 2 ** 20  # memory that one block of the window matrix may take


def data_step(degradation: Degradation, k: Tensor, y: Tensor, x0: Tensor, rho: float, iterations: int = 15,
              tolerance: float = 1e-4) -> Tensor:
    """argmin_x ||y - Ax||² + rho ||x - x0||², A = (· * k)↓s.

    Solved in the small space, by conjugate gradients for z of LR size:
    x = x0 + Aᵀz, (A·Aᵀ + rho·I) z = y - A·x0.

    Args:
        degradation, k: the operator A.
        y: (B, C, h, w).
        x0: (B, C, H, W) on the degradation's canvas.
        rho: weight of the prior's estimate, > 0.
        iterations: at most this many; ends early once the residual is ``tolerance`` times the first.
    """
    normal = degradation.normal_operator(k)
    r = y - degradation.forward(x0, k)
    z, p = torch.zeros_like(r), r
    norm = first = r.square().sum()
    for _ in range(iterations):
        if norm <= tolerance ** 2 * first:
            break
        q = normal(p) + rho * p
        step = norm / (p * q).sum()
        z = z + step * p
        r = r - step * q
        last, norm = norm, r.square().sum()
        p = r + norm / last * p
    return x0 + degradation.adjoint(z, k)


def normal_equations(degradation: Degradation, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """G = UᵀU / n and b = Uᵀy / n, U the windows of x, n their number: ||y - U·k||² / n = kᵀGk - 2bᵀk + const.

    Every further step on k costs K⁴ or less, whatever the image's size. Rows of LR pixels are taken in blocks,
    so that memory does not grow with the image.

    Returns:
        G (K², K²) and b (K²).
    """
    K, s = degradation.kernel_size, degradation.scale
    x = degradation.extend(x)
    h, w = y.shape[-2:]
    rows = max(1, WINDOW_BYTES // (4 * K * K * w * y.shape[0] * y.shape[1]))
    inside = Degradation(s, K, 'valid')
    G, b = x.new_zeros(K * K, K * K), x.new_zeros(K * K)
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        U = inside.windows(x[..., top * s:(bottom - 1) * s + K, :(w - 1) * s + K])
        G.addmm_(U.T, U)
        b.addmv_(U.T, y[..., top:bottom, :].reshape(-1))
    return G / y.numel(), b / y.numel()


def fit_kernel(G: Tensor, b: Tensor, start: Tensor, ridge: float, iterations: int = 300) -> Tensor:
    """argmin kᵀGk - 2bᵀk + ridge · mean(diag G) · ||k||² over k >= 0, then scaled to sum 1.

    By FISTA (Beck & Teboulle 2009) from ``start`` (K, K).
    """
    H = G + ridge * G.diagonal().mean() * torch.eye(len(G), dtype=G.dtype, device=G.device)
    rate = 1 / torch.linalg.matrix_norm(H, 2)
    k = z = start.reshape(-1)
    momentum = 1.0
    for _ in range(iterations):
        following = (z - rate * (H @ z - b)).clamp_min(0)
        next_momentum = (1 + (1 + 4 * momentum ** 2) ** 0.5) / 2
        z = following + (momentum - 1) / next_momentum * (following - k)
        k, momentum = following, next_momentum
    total = k.sum()
    return (k / total if total > 0 else start.reshape(-1)).reshape(start.shape)
