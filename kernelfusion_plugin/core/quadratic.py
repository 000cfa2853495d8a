"""The two quadratic problems of blind deconvolution: the image given the kernel, the kernel given the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .degradation import Degradation

WINDOW_BYTES = 64 * 2 ** 20  # memory that one block of the window matrix may take
PANEL = 128  # rows of the normal matrix that are done at a time


def data_step(degradation: Degradation, k: Tensor, y: Tensor, x0: Tensor, rho: float, iterations: int = 15,
              tolerance: float = 1e-4, counting: Tensor | None = None) -> Tensor:
    """argmin_x ||M(y - Ax)||² + rho ||x - x0||², A = (· * k)↓s, M = 1 where y counts, else 0.

    Solved in the small space, by conjugate gradients for z of LR size:
    x = x0 + Aᵀz, (M·A·Aᵀ·M + rho·I) z = M(y - A·x0).

    Args:
        degradation, k: the operator A.
        y: (B, C, h, w).
        x0: (B, C, H, W) on the degradation's canvas.
        rho: weight of the prior's estimate, > 0.
        iterations: at most this many; it stops once the residual is ``tolerance`` times the first.
        counting: bool, broadcastable to y; None: all of y counts.
    """
    normal = degradation.normal_operator(k)
    r = y - degradation.forward(x0, k)
    if counting is not None:
        r = r * counting
    z, p = torch.zeros_like(r), r
    norm = first = r.square().sum()
    for _ in range(iterations):
        going = norm > tolerance ** 2 * first
        if going.device.type == 'cpu' and not going:  # a GPU's queue would be waited for; there z just stays as it is
            break
        q = normal(p)
        q = (q if counting is None else q * counting) + rho * p
        step = torch.where(going, norm / (p * q).sum(), 0)
        z = z + step * p
        r = r - step * q
        last, norm = norm, r.square().sum()
        p = r + torch.where(going, norm / last, 0) * p
    return x0 + degradation.adjoint(z, k)


def normal_equations(degradation: Degradation, x: Tensor, y: Tensor,
                     weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """G = UᵀU / n and b = Uᵀy / n, U the windows of x, n their number: ||y - U·k||² / n = kᵀGk - 2bᵀk + const.

    With ``weights`` W (B, 1, h, w), one per LR pixel, scaled to mean 1: G = UᵀWU / n, b = UᵀWy / n.

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
    roots = None if weights is None else (weights / weights.mean()).sqrt().expand(y.shape)
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        U = inside.windows(x[..., top * s:(bottom - 1) * s + K, :(w - 1) * s + K])
        values = y[..., top:bottom, :].reshape(-1)
        if roots is not None:
            root = roots[..., top:bottom, :].reshape(-1)
            U, values = U * root[:, None], values * root
        for left in range(0, K * K, PANEL):  # G is symmetric: what lies below the diagonal's panels is left out
            G[left:left + PANEL, left:].addmm_(U[:, left:left + PANEL].T, U[:, left:])
        b.addmv_(U.T, values)
    G = G.triu() + G.triu(1).T
    return G / y.numel(), b / y.numel()


def covariance_lags(noise: Tensor, change: Tensor, sigma: float) -> Tensor:
    """Cov(x | x + sigma·n) by distance: what a denoiser D leaves open, as if it were the same at all places.

    By Tweedie's formula (Robbins 1956) it is sigma² ∂D/∂x. The derivative's mean over the picture is the correlation
    of the noise that went in with what came out, E[D(p) n(p + d)] = sigma E[∂D(p)/∂x(p + d)] (Stein 1981); what does
    not depend on the noise can be subtracted from D first. So the noise that was added to the picture anyway is enough.

    Args:
        noise: n, white, of variance 1, (B, C, H, W).
        change: D(x + sigma·n) - x, likewise.
        sigma: the noise's standard deviation.

    Returns:
        (H, W), the covariance of two pixels by their distance on a torus, mean over channels; at [0, 0] the variance.
    """
    spectrum = (torch.fft.rfft2(noise).conj() * torch.fft.rfft2(change)).real.mean((0, 1))
    return torch.fft.irfft2(spectrum, s=noise.shape[-2:]) * (sigma / noise[0, 0].numel())


def window_covariance(lags: Tensor, size: int) -> Tensor:
    """(K², K²) covariances between the pixels of a K x K window, K = ``size``, from those by distance.

    In the units of :func:`normal_equations`, to whose UᵀU / n it is added where an expectation is wanted:
    E[UᵀU] = E[U]ᵀE[U] + Cov.
    """
    apart = torch.arange(1 - size, size, device=lags.device)
    near = lags[apart[:, None] % lags.shape[0], apart % lags.shape[1]]  # (2K - 1, 2K - 1)
    windows = near.unfold(0, size, 1).unfold(1, size, 1)  # [i, j, p, q]: lag (i + p - K + 1, j + q - K + 1)
    return windows.flip(2, 3).reshape(size ** 2, size ** 2)


def fit_kernel(G: Tensor, b: Tensor, start: Tensor, ridge: float, smoothness: float = 0.0,
               iterations: int = 300) -> Tensor:
    """argmin kᵀGk - 2bᵀk + mean(diag G) · (ridge · ||k||² + smoothness · J(k)) over k >= 0, then scaled to sum 1.

    J is :func:`roughness`, with weights from the previous kernel: two rounds, each by FISTA (Beck & Teboulle 2009), the
    first from ``start`` (K, K). If the kernel vanishes, ``start`` is returned.
    """
    unit = G.diagonal().mean()
    k = start
    for _ in range(2 if smoothness else 1):
        H = G + ridge * unit * torch.eye(len(G), dtype=G.dtype, device=G.device)
        if smoothness:
            H = H + smoothness * unit * roughness(k)
        k = _nonnegative_least_squares(H, b, k.reshape(-1), iterations).reshape(start.shape)
        total = k.sum()
        if not total > 0:
            return start
        k = k / total
    return k


def _nonnegative_least_squares(H: Tensor, b: Tensor, k: Tensor, iterations: int) -> Tensor:
    """argmin kᵀHk - 2bᵀk over k >= 0, by FISTA from ``k``."""
    rate = 1 / spectral_bound(H)
    z, momentum = k, 1.0
    for _ in range(iterations):
        following = (z - rate * (H @ z - b)).clamp_min(0)
        next_momentum = (1 + (1 + 4 * momentum ** 2) ** 0.5) / 2
        z = following + (momentum - 1) / next_momentum * (following - k)
        k, momentum = following, next_momentum
    return k


def spectral_bound(H: Tensor) -> Tensor:
    """(Σ λ⁸)^(1/8) over the eigenvalues λ of symmetric H (n, n), H != 0: 1 to n^(1/8) times the largest |λ|.

    By two matrix products, which give the same bits in every run; LAPACK's eigenvalues do not.
    """
    size = H.norm()
    power = H / size
    for _ in range(2):
        power = power @ power
    return size * power.norm() ** 0.25


def roughness(k: Tensor, floor: float = 0.3) -> Tensor:
    """The matrix R (K², K²) of J(k') = k'ᵀRk' = Σ (k'_i - k'_j)² / (K² (k_i + k_j) / 2 + floor) over neighbours i, j.

    At k' = k, J is, except for ``floor``, the Fisher information 4 Σ (√k_i - √k_j)² of the kernel as a density, divided
    by K²: differences count relative to the values themselves. A lattice on a plateau and specks on the ground cost
    much, a bright dot or a thin line little. Outside the grid k is zero.

    Args:
        k: (K, K), sums to 1.
        floor: of the mean of two neighbours, in units of a uniform kernel's value 1 / K².
    """
    K = len(k)
    padded = F.pad(k, (1, 1, 1, 1))
    index = torch.arange((K + 2) ** 2, device=k.device).reshape(K + 2, K + 2)
    R = k.new_zeros((K + 2) ** 2, (K + 2) ** 2)
    for i, j in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        i, j = i.reshape(-1), j.reshape(-1)
        weight = 1 / (K ** 2 * (padded.reshape(-1)[i] + padded.reshape(-1)[j]) / 2 + floor)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            R.index_put_((a, b), sign * weight, accumulate=True)
    inside = index[1:-1, 1:-1].reshape(-1)
    return R[inside][:, inside]
