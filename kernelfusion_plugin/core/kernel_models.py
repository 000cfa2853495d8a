"""Kernel networks of Phase 2: SIREN (the paper's), direct parameters and linear CNN (its ablations, C.1).

Each is a module without input: ``forward()`` returns the kernel (K, K), which sums to 1. All start wide and change
slowly: from a nearly uniform kernel the estimate narrows down to the true one, whereas from a sharp kernel blind
estimation converges to the no-blur solution.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 1e-4


def leaky_sigmoid(x: Tensor) -> Tensor:
    """σ_leaky(x) = (1 + 1e-4) · sigmoid(x) - 1e-4, in (-1e-4, 1) (KernelFusion, A.4)."""
    return (1 + LEAK) * torch.sigmoid(x) - LEAK


def coordinate_grid(kernel_size: int, device: torch.device | None = None) -> Tensor:
    """The K x K grid g of A.4, (K², 2): (row, column) of each entry, scaled to [-1, 1]."""
    axis = torch.linspace(-1, 1, kernel_size, device=device) if kernel_size > 1 else torch.zeros(1, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing='ij'), dim=-1).reshape(-1, 2)


def centre_of_mass_loss(k: Tensor) -> Tensor:
    """COM(k) of Algorithm 1: squared distance of the kernel's centre of mass from the grid's centre (K - 1) / 2.

    In units of :func:`coordinate_grid`: 1 is the distance from the centre to the outermost entry, (K - 1) / 2 pixels.
    For K = 24, an offset of one pixel costs 0.0076. The paper gives neither norm nor unit.

    Args:
        k: (K, K), sums to 1.

    Returns:
        A scalar >= 0.
    """
    grid = coordinate_grid(k.shape[-1], k.device).to(k)
    return (k.reshape(-1) @ grid).square().sum()


def _to_unit_sum(k: Tensor) -> Tensor:
    return k / k.sum().clamp_min(1e-8)


def _check_size(kernel_size: int) -> None:
    if kernel_size < 1:
        raise ValueError(f'kernel_size must be a positive integer, got {kernel_size}')


class Siren(nn.Module):
    """The paper's implicit kernel (Section 4, A.4): k = normalise(σ_leaky(MLP(g))), with sin(ω ·) between layers.

    The MLP has ``depth`` fully connected layers of ``width`` nodes, each followed by sin(ω ·) with the same ω = 5, and
    a final linear layer to one value. Initialisation follows Sitzmann et al. 2020 (Section 3.2): first layer
    U(±1 / fan_in), others U(±√(6 / fan_in) / ω), biases PyTorch's default. The outputs of the last layer then have a
    standard deviation of about 1 / ω, so the kernel starts nearly uniform.

    Args:
        kernel_size: K.
        width, depth: nodes per layer and number of sine layers.
        omega: ω; the original SIREN uses 30.

    Raises:
        ValueError: a size is below 1 or ω is not positive.
    """

    def __init__(self, kernel_size: int, width: int = 256, depth: int = 5, omega: float = 5.0) -> None:
        super().__init__()
        _check_size(kernel_size)
        if width < 1 or depth < 1 or omega <= 0:
            raise ValueError(f'width and depth must be at least 1 and omega positive, got {width}, {depth}, {omega}')
        self.kernel_size = kernel_size
        self.omega = omega
        sizes = [2] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 1)
        self.register_buffer('grid', coordinate_grid(kernel_size), persistent=False)
        for i, layer in enumerate([*self.layers, self.head]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def raw(self) -> Tensor:
        """The kernel before normalisation, (K, K), each value in (-1e-4, 1)."""
        h = self.grid  # (K², 2)
        for layer in self.layers:
            h = torch.sin(self.omega * layer(h))  # (K², width)
        return leaky_sigmoid(self.head(h)).reshape(self.kernel_size, self.kernel_size)

    def forward(self) -> Tensor:
        return _to_unit_sum(self.raw())


class DirectKernel(nn.Module):
    """A kernel with one parameter per entry, made non-negative by ``activation`` and normalised (C.1).

    Both activations start uniform: ``relu`` at 1 / K², where an Adam step of 1e-4 is a change of a few per cent, and
    ``sigmoid`` at 0 (value 1/2), where the same step changes almost nothing, as the paper's table shows.

    Raises:
        ValueError: K is below 1 or the activation is unknown.
    """

    def __init__(self, kernel_size: int, activation: str = 'relu') -> None:
        super().__init__()
        _check_size(kernel_size)
        if activation not in ('relu', 'sigmoid'):
            raise ValueError(f"activation must be 'relu' or 'sigmoid', got {activation!r}")
        self.activation = activation
        start = 1 / kernel_size ** 2 if activation == 'relu' else 0.0
        self.values = nn.Parameter(torch.full((kernel_size, kernel_size), start))

    def forward(self) -> Tensor:
        return _to_unit_sum(F.relu(self.values) if self.activation == 'relu' else torch.sigmoid(self.values))


class LinearCnnKernel(nn.Module):
    """Deep linear CNN after KernelGAN (Bell-Kligler et al. 2019; C.1), evaluated as an explicit kernel.

    Layers of 7, 7, 5, 3, 1 and s pixels (the paper, s = 4: 7, 7, 5, 3, 1, 4) and 1, 32, …, 32, 1 channels, without bias
    or activation. Only the last has a stride (s), so together they equal one strided correlation with their
    composition, of size 18 + s (s = 4: 22). It is centred in K x K: zero-padded if K is larger (24: by one on each
    side), cropped if K is smaller. If the difference is odd, it is aligned with the LR pixel's centre as defined by
    ``Degradation``. Entries may be negative.

    The layers start as random averages, with weights in [0, 2) / fan_in: a wide bell whose sum cannot vanish.

    Raises:
        ValueError: K or the scale is below 1.
    """

    def __init__(self, kernel_size: int, scale: int = 4) -> None:
        super().__init__()
        _check_size(kernel_size)
        if scale < 1:
            raise ValueError(f'scale must be a positive integer, got {scale}')
        self.kernel_size = kernel_size
        sizes, channels = (7, 7, 5, 3, 1, scale), (1, 32, 32, 32, 32, 32, 1)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, size, bias=False)
                                    for (a, b), size in zip(pairwise(channels), sizes, strict=True))
        for layer in self.layers:
            nn.init.uniform_(layer.weight, 0, 2 / layer.weight[0].numel())

    def forward(self) -> Tensor:
        reach = sum(layer.kernel_size[0] - 1 for layer in self.layers)  # size of the composition minus 1
        k = self.layers[0].weight.new_zeros(1, 1, 2 * reach + 1, 2 * reach + 1)
        k[..., reach, reach] = 1
        for layer in self.layers:
            k = layer(k)  # correlation with an impulse gives the kernel rotated by 180 degrees
        extra = self.kernel_size - k.shape[-1]
        before = extra // 2  # as in Degradation.margin; also when cropping: of 3 rows, 2 at the top
        sides = (before, extra - before) * 2
        return _to_unit_sum(F.pad(k.flip(-2, -1), sides)[0, 0])
