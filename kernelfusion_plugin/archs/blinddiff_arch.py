"""MCFormer, BlindDiff's network, for BasicSR's ARCH_REGISTRY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..core.kernel_basis import kernel_basis
from ..core.kernel_families import Family, Mixture
from ..core.nets.mcformer import ModulatedTransformer
from ..core.sections import check_choice

HEADS = ('pca', 'softmax')
SAMPLES = 2000  # kernels from which the basis is computed; drawn at each start with a fixed seed


class MCFormer(ModulatedTransformer):
    """MCFormer as ``network_g``; see :class:`~..core.nets.mcformer.ModulatedTransformer` for the other arguments.

    Args:
        kernel_head: ``pca`` (the paper): a mixture of principal components. ``softmax`` (the released weights): any
            kernel.
        kernels: kernel families from which the components are computed, like the training data's ``kernels``; trained
            weights contain their own. Default: isotropic Gaussians of sigma 0.2 to 4.
        code_length: number of components; not stated in the paper, IKC uses 10.

    Raises:
        ValueError: an argument is out of range, or the size of ``kernels`` is not ``kernel_size``.
    """

    def __init__(self, kernel_head: str = 'pca', kernels: Sequence[Mapping[str, Any]] | None = None,
                 code_length: int = 10, kernel_size: int = 21, **network: Any) -> None:  # noqa: ANN401
        check_choice('network_g.kernel_head', kernel_head, HEADS)
        basis = None
        if kernel_head == 'pca':
            mixture = Mixture.from_options(kernels or [{'type': 'isotropic', 'size': kernel_size}], 'network_g.kernels')
            if mixture.size != kernel_size:
                raise ValueError(f'network_g.kernels have the size {mixture.size}, but network_g.kernel_size is '
                                 f'{kernel_size}')
            basis = _basis(mixture.families, code_length)
        super().__init__(kernel_size=kernel_size, basis=basis, **network)


@lru_cache(maxsize=4)  # takes a second or two, and training builds the network twice
def _basis(families: tuple[Family, ...], code_length: int) -> tuple[Tensor, Tensor]:
    mixture, generator = Mixture(families), torch.Generator().manual_seed(0)
    return kernel_basis(torch.stack([mixture.draw(generator) for _ in range(SAMPLES)]), code_length)
