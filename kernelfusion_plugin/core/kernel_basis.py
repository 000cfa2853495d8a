"""Principal components of a family of kernels: BlindDiff's kernel space (Li et al., Section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_basis(kernels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and the first ``count`` principal components of kernels, each component as long as its deviation.

    k ≈ mean + code · components with codes of mean 0 and variance 1. Kernels that sum to 1 give a mean that sums
    to 1 and components that sum to 0. The sign of a component is such that its largest entry is positive.

    Args:
        kernels: (N, K, K), N > count.

    Returns:
        (K²,) and (count, K²), float32.

    Raises:
        ValueError: no such kernels, or more components than they have.
    """
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f'kernels must be (N, K, K), got {tuple(kernels.shape)}')
    rows = kernels.flatten(1).double()
    most = min(rows.shape[1], len(rows) - 1)
    if not 1 <= count <= most:
        raise ValueError(f'{len(rows)} kernels of {rows.shape[1]} entries have 1 to {most} components, not {count}')
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    components = (vectors * variances.clamp_min(0).sqrt()).T.flip(0)[:count]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return mean.float(), (components * largest.sign()).float()

