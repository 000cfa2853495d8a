"""Adapters through which BlindSRModel reads the outputs of known networks and trains their kernel estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..core.deconvolution import lr_space_kernel
from ..core.degradation import downscale_bicubic
from ..core.kernel_pca import decode
from ..core.nets.dan import DAN
from ..core.nets.danv2 import DANv2
from ..core.nets.dcls import DCLS

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """A network's output for y: the picture (B, C, s·h, s·w), roughly in [0, 1], and any kernels (B, K, K).

    Attributes:
        kernel: as drawn, that is, to be correlated with the picture.
        kernel_space: ``hr``, or ``lr`` for a kernel that blurs the downscaled picture.
    """

    sr: Tensor
    kernel: Tensor | None = None
    kernel_space: str = 'hr'


class Picture:
    """Networks that return only the picture: SwinIR, RRDBNet, …"""

    learns_kernels = False

    def check_pairs(self, net: nn.Module, kernel_size: int | None, lr_size: int | None) -> None:
        """Raise ValueError if ``net`` cannot learn kernels of that size from LR crops of that size (None: unknown)."""

    def estimate(self, net: nn.Module, output: Any) -> Estimate:  # noqa: ANN401
        """Interpret ``output``, the result of ``net(y)``."""
        return Estimate(picture(output))

    def kernel_loss(self, net: nn.Module, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        """Loss of the kernel estimate, given the true kernel (B, K, K) and the LR and HR pictures y and x."""
        raise NotImplementedError


class DanCodes(Picture):
    """DAN: pictures and kernel codes of all rounds. Only the last round is supervised, as in the published training."""

    learns_kernels = True

    def check_pairs(self, net: DAN, kernel_size: int | None, lr_size: int | None) -> None:
        if kernel_size not in (None, net.kernel_size):
            raise ValueError(f"the training set's kernels are {kernel_size} x {kernel_size}, but network_g.kernel_size "
                             f'is {net.kernel_size}: they must be equal')

    def estimate(self, net: DAN, output: Any) -> Estimate:  # noqa: ANN401
        return Estimate(picture(output), decode(output[1][-1], net.encoder[0]))

    def kernel_loss(self, net: DAN, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        self.check_pairs(net, kernel.shape[-1], None)
        return loss(output[1][-1], net.encode(kernel.flatten(1)))


class DanKernels(DanCodes):
    """DANv2: pictures, codes and kernels of all rounds; only the last round is supervised."""

    def estimate(self, net: DANv2, output: Any) -> Estimate:  # noqa: ANN401
        kernels = output[2][-1]
        return Estimate(picture(output), kernels.reshape(-1, net.kernel_size, net.kernel_size))

    def kernel_loss(self, net: DANv2, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        self.check_pairs(net, kernel.shape[-1], None)
        return loss(output[2][-1], kernel.flatten(1))


class LrKernels(Picture):
    """DCLS: the picture, and a kernel in LR pixels for convolution (not correlation)."""

    learns_kernels = True

    def check_pairs(self, net: DCLS, kernel_size: int | None, lr_size: int | None) -> None:
        if lr_size and lr_size < net.kernel_size:
            raise ValueError(f'datasets:train:gt_size must be at least {net.kernel_size} times the scale, as '
                             f'network_g.kernel_size is {net.kernel_size} LR pixels, but the LR crops have {lr_size}')

    def estimate(self, net: DCLS, output: Any) -> Estimate:  # noqa: ANN401
        return Estimate(picture(output), output[1][:, 0].flip(-2, -1), 'lr')

    def kernel_loss(self, net: DCLS, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        scale = x.shape[-1] // y.shape[-1]
        return loss(output[1], lr_space_kernel(downscale_bicubic(x, scale), y, net.kernel_size))


def adapter(net: nn.Module) -> Picture:
    """The adapter for this network."""
    known = {DAN: DanCodes, DANv2: DanKernels, DCLS: LrKernels}
    return next((reader() for kind, reader in known.items() if isinstance(net, kind)), Picture())


def picture(output: Any) -> Tensor:  # noqa: ANN401
    """The picture in a network's output: itself or its first element, of which the last round if it is a list."""
    first = output if isinstance(output, Tensor) else output[0]
    return first[-1] if isinstance(first, (list, tuple)) else first
