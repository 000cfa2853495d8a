"""The inputs of a run: checks of y and the known kernel, and the forward model for them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import KernelFusionConfig
from .degradation import Degradation
from .nets.patch_net import RECEPTIVE_FIELD
from .regional_degradation import RegionalDegradation, choose_grid
from .solvers import SOLVERS


def inspected(y: Tensor, config: KernelFusionConfig,
              kernel: Tensor | None = None) -> tuple[Tensor, Tensor | None, Degradation]:
    """y (1, 3, h, w), the known kernel and the forward model, all checked and on y's device.

    Raises:
        ValueError: :func:`check_surroundings`, :func:`checked`, :func:`known_kernel`, :func:`forward_model` or the
            solver rejects the input; a one-line message.
    """
    y = checked(y)
    check_surroundings(y.device)
    kernel = known_kernel(kernel, config)
    kernel = None if kernel is None else kernel.to(y.device)
    degradation = forward_model(y, config, kernel)
    SOLVERS[config.solver].check(tuple(y.shape[-2:]), config, kernel is not None)
    return y, kernel, degradation


def check_surroundings(device: torch.device) -> None:
    """Check PyTorch's global state: default dtype and device are float32 and cpu, and autocast is off.

    Args:
        device: on which the run computes.

    Raises:
        ValueError: the state is different; a one-line message.
    """
    born = torch.empty(0)
    if born.dtype != torch.float32 or born.device.type != 'cpu':
        raise ValueError(f'restoring a picture needs torch.float32 and cpu as default dtype and device, got '
                         f'{born.dtype} on {born.device}: see torch.set_default_dtype and torch.set_default_device')
    for kind in dict.fromkeys(('cpu', device.type)):
        one = torch.ones(1, 1, device=kind)
        if (one @ one).dtype != torch.float32:
            raise ValueError('a picture cannot be restored within torch.autocast: call it outside, or within '
                             f'torch.autocast({kind!r}, enabled=False)')


def forward_model(y: Tensor, config: KernelFusionConfig, kernel: Tensor | None = None) -> Degradation:
    """The degradation for y (1, 3, h, w), with one kernel per region if the config or a known ``kernel`` has several.

    Raises:
        ValueError: the regions would be too small.
    """
    degradation = Degradation(config.scale, config.kernel_size, config.border)
    size = y.shape[-2:]
    grid = choose_grid(config.regions, size) if kernel is None else kernel.shape[:-2]
    return RegionalDegradation(degradation, size, grid) if math.prod(grid) > 1 else degradation


def checked(y: Tensor) -> Tensor:
    """y as (1, 3, h, w), contiguous and :func:`stored`; raises a ValueError that says what is wrong with it."""
    if not isinstance(y, Tensor):
        raise ValueError(f'y must be a tensor, got {type(y).__name__}')
    if y.ndim == 3:
        y = y[None]
    if y.ndim != 4 or y.shape[:2] != (1, 3):
        raise ValueError(f'y must be one RGB image, (3, h, w) or (1, 3, h, w), got {tuple(y.shape)}')
    if not y.is_floating_point():
        raise ValueError(f'y must be floating point in [-1, 1], got {y.dtype}: convert 8-bit values by y / 127.5 - 1')
    if min(y.shape[-2:]) < RECEPTIVE_FIELD:
        raise ValueError(f'the image is {y.shape[-1]} x {y.shape[-2]} pixels (width x height): at least '
                         f'{RECEPTIVE_FIELD} x {RECEPTIVE_FIELD} are needed, the receptive field of the patch prior')
    if not torch.isfinite(y).all():
        raise ValueError('the image has NaN or infinite values')
    if y.min() < -1 - 1e-4 or y.max() > 1 + 1e-4:
        raise ValueError(f'y must lie in [-1, 1], got [{float(y.min()):.3g}, {float(y.max()):.3g}]: rescale it')
    return stored(y.detach()).contiguous()


def stored(y: Tensor) -> Tensor:
    """y as float32, with values snapped to 2n / 65535 - 1 (those of 8- and 16-bit files) if within rounding error.

    EM amplifies differences in the last bit; this makes results independent of the arithmetic used in reading a file.
    """
    exact = y.cpu().double()
    levels = (exact + 1) * (65535 / 2)
    nearest = levels.round()
    value = torch.where((levels - nearest).abs() < 0.01, nearest / (65535 / 2) - 1, exact)
    return value.to(y.device, torch.float32)


def known_kernel(kernel: Tensor | None, config: KernelFusionConfig) -> Tensor | None:
    """A kernel (K, K), or one for each of R x C regions, (R, C, K, K), normalised to sum 1; None if none is known.

    K is the config's ``kernel_size``; a kernel that is smaller by an even number is padded with zeros.

    Raises:
        ValueError: the kernel does not suit the config; a one-line message.
    """
    if kernel is None:
        return None
    check_takes_kernels(config)
    if not isinstance(kernel, Tensor):
        raise ValueError(f'the known kernel must be a tensor, got {type(kernel).__name__}')
    size, square = config.kernel_size, kernel.ndim in (2, 4) and kernel.shape[-1] == kernel.shape[-2] > 0
    around, odd = divmod(size - kernel.shape[-1], 2) if square else (-1, 0)
    if around < 0 or odd:
        hint = f': set kernel_size to {grid_for(kernel.shape[-1], config.scale)}' if square else ''
        raise ValueError(f'the known kernel must be {size} x {size}, or R x C of that size, got shape '
                         f'{tuple(kernel.shape)}{hint}')
    kernel = F.pad(kernel.detach(), (around,) * 4)
    sums = kernel.sum((-2, -1), keepdim=True)
    if not torch.isfinite(kernel).all() or (sums <= 0).any():
        raise ValueError('the known kernel must be finite and have a positive sum')
    kernel = (kernel / sums).float()
    return kernel[0, 0] if kernel.shape[:-2] == (1, 1) else kernel


def check_takes_kernels(config: KernelFusionConfig) -> None:
    """Raise ValueError if the config's solver does not accept a known kernel."""
    if not SOLVERS[config.solver].takes_kernels:
        raise ValueError(f'solver {config.solver!r} takes no known kernel: it always estimates one')


def grid_for(size: int, scale: int) -> int:
    """The ``kernel_size`` for a known kernel of ``size``: its own if the config accepts it, else the smallest larger
    one that the config accepts and that differs by an even number, so that the centre stays.
    """
    return max(size, 2 * scale + (size - 2 * scale) % 2)
