"""Principal components of a family of kernels: BlindDiff's kernel space (Li et al., Section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_basis(kernels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and first ``count`` principal components of kernels, each component scaled by its standard deviation.

    k ≈ mean + code · components, where codes have mean 0 and variance 1. If the kernels sum to 1, the mean sums to 1
    and the components sum to 0. Signs are chosen so that the entry of largest magnitude is positive.

    Args:
        kernels: (N, K, K), N > count.

    Returns:
        (K²,) and (count, K²), float32.

    Raises:
        ValueError: wrong shape, or more components than the kernels have.
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

