"""Kernels and forward model of DIV2KRK (Bell-Kligler et al. 2019, KernelGAN), inferred from its published files.

Verified on the two available cases, im_13 and im_14: :func:`downscale` with the published kernels reproduces their LR
images bit for bit, including the frame; and these kernels are, up to 4e-4 of their norm, 11 x 11 kernels correlated
with themselves at twice the spacing, that is, two successive reductions by 2.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.degradation import Degradation
from ..core.kernel_align import centre, centre_of_mass, normalise
from ..core.kernels import gaussian

SIZE = 11  # at scale 2; at scale 4: 3 · 11 - 2 = 31
VARIANCE = 0.6, 5.0  # pixels², along each axis of the Gaussian at scale 2
NOISE = 0.25  # relative, in either direction


def draw_kernel(scale: int, generator: Generator) -> Tensor:
    """A random kernel (11, 11) for scale 2, (31, 31) for scale 4, centred, float32.

    An anisotropic Gaussian with variances uniform in 0.6 … 5 pixels² along its axes and uniform direction; each pixel
    is multiplied by 1 + U(-0.25, 0.25); centred by its centre of mass. At scale 4, the kernel of two such reductions,
    k(u) = Σ_v k₂(v) k₂(u - 2v).

    Raises:
        ValueError: another scale, which DIV2KRK does not have.
    """
    if scale not in (2, 4):
        raise ValueError(f'DIV2KRK exists at scales 2 and 4 only, got {scale}')
    k = anisotropic(SIZE, generator)
    if scale == 2:
        return k.float()
    spread = k.new_zeros(2 * SIZE - 1, 2 * SIZE - 1)
    spread[::2, ::2] = k
    return normalise(F.conv_transpose2d(spread[None, None], k[None, None])[0, 0]).float()


def anisotropic(size: int, generator: Generator) -> Tensor:
    """The Gaussian with multiplicative noise from :func:`draw_kernel`, (size, size), centred, float64."""
    u = torch.rand(3, generator=generator, dtype=torch.float64)
    low, high = VARIANCE
    sigmas = tuple(math.sqrt(low + (high - low) * float(part)) for part in u[:2])
    smooth = gaussian(size, sigmas=sigmas, theta=float(u[2]) * math.pi).double()
    noise = 2 * torch.rand(size, size, generator=generator, dtype=torch.float64) - 1
    return centre(smooth * (1 + NOISE * noise))


def downscale(hr: Tensor, k: Tensor, scale: int) -> Tensor:
    """Downscale as KernelGAN does: (B, C, H, W) uint8 to (B, C, H / s, W / s) uint8.

    The kernel is shifted by its centre of mass (cubic spline) so that LR pixel i lies at HR s·i + (s - 1) / 2, the
    bicubic grid. The picture is mirrored beyond the frame with its edge repeated; values are truncated, not rounded.
    So DIV2KRK's kernel files, which are centred on their own grid, are half a pixel off the grid on which
    :class:`~..core.degradation.Degradation` places a kernel of odd size at an even scale.
    """
    from scipy import ndimage  # comes with basicsr
    size, middle = len(k), len(k) // 2
    values = k.double().numpy()
    moved = ndimage.shift(values, middle + (scale - 1) / 2 - centre_of_mass(k.double()).numpy())
    degradation = Degradation(scale, size)
    sides = (middle, size - scale - middle)
    canvas = torch.from_numpy(np.pad(hr.numpy(), ((0, 0), (0, 0), sides, sides), mode='symmetric')).double()
    y = degradation.forward(canvas, torch.from_numpy(moved))
    return y.add(1e-9).floor().clamp(0, 255).to(torch.uint8)  # 1e-9: a flat picture must not lose a level to rounding
