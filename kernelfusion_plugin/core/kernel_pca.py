"""Short codes of kernels: projections onto the principal axes of their family (SRMD, IKC, DAN)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from .tensor_files import load_tensors

CHUNK = 500  # kernels that pca_matrix takes at a time
PROJECTIONS = 100  # in decode; 50 give the same result to three digits


def pca_matrix(kernels: Iterable[Tensor], length: int) -> Tensor:
    """P (K², L): orthonormal axes of the largest second moments, in descending order; a kernel's code is Pᵀ·vec(k).

    DAN's own matrices hold the axes about the family's mean, yet its codes do not subtract the mean: the part of it
    outside the axes is lost. With axes about zero, nothing is: of 50 isotropic kernels (sigma 0.2 to 4, L = 10)
    restored as P·c, the worst has a correlation of 1.000 with the original, and 0.944 with P made about the mean. The
    shape is DAN's, and its networks work with either. Each axis has the sign that makes its largest entry positive.

    Args:
        kernels: N kernels (K, K), drawn as they are needed; only their moments are kept.
        length: L.

    Returns:
        float32.

    Raises:
        ValueError: there are fewer kernels, or fewer entries in a kernel, than L.
    """
    count, moment, kernels = 0, torch.zeros(()), iter(kernels)
    while chunk := list(islice(kernels, CHUNK)):
        rows = torch.stack(chunk).flatten(1).double()
        count, moment = count + len(rows), moment + rows.T @ rows
    most = min(count, moment.shape[-1] if count else 0)
    if not 1 <= length <= most:
        raise ValueError(f'{count} kernels have at most {most} principal axes, asked for {length}')
    _, axes = torch.linalg.eigh(moment / count)
    axes = axes.flip(1)[:, :length]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * largest.sign()).float()


def decode(codes: Tensor, pca: Tensor) -> Tensor:
    """Kernels (B, K, K) from codes (B, L): those of least norm with Pᵀ·vec(k) = c, sum 1 and no negative value.

    Found by Dykstra's alternating projections onto the affine set and onto k >= 0. Where P was made about the family's
    mean, as in DAN's weights, this recovers some of what P·c loses: 0.990 instead of the 0.944 above.
    """
    matrix = torch.cat([pca, pca.new_ones(len(pca), 1)], dim=1).double()  # (K², L + 1): code and sum
    wanted = torch.cat([codes, codes.new_ones(len(codes), 1)], dim=1).double()
    inverse = torch.linalg.pinv(matrix)
    k = wanted @ inverse  # the one of least norm among all with this code and sum
    excess = torch.zeros_like(k)
    for _ in range(PROJECTIONS):
        positive = (k + excess).clamp_min(0)
        excess = k + excess - positive
        k = positive - (positive @ matrix - wanted) @ inverse
    k = k.clamp_min(0)
    side = round(len(pca) ** 0.5)
    return (k / k.sum(1, keepdim=True)).float().reshape(-1, side, side)


def load_pca(path: str | os.PathLike[str]) -> Tensor:
    """P (K², L) from a file made by ``kernelfusion pca``, or one of DAN's own.

    Raises:
        ValueError: there is no such file, or it holds something else; in one line. Code in the file is never run.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{path}: no such PCA matrix; "kernelfusion pca -opt FILE.yml" makes that of a training file')
    matrix = load_tensors(path, 'a PCA matrix')
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.isfinite().all():
        raise ValueError(f'{path}: not a PCA matrix: it must be a tensor (K², L) of finite numbers')
    return matrix.float()
