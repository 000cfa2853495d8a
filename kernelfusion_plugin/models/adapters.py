"""How BlindSRModel reads the outputs of the networks it knows, and what it trains them on besides the picture."""

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
    """What a network makes of y: the picture (B, C, s·h, s·w) in about [0, 1] and the kernels (B, K, K), if it has any.

    Attributes:
        kernel: as drawn: it correlates with the picture.
        kernel_space: ``hr``, or ``lr`` for a blur of the reduced picture.
    """

    sr: Tensor
    kernel: Tensor | None = None
    kernel_space: str = 'hr'


class Picture:
    """Networks that give the picture alone: SwinIR, RRDBNet, …"""

    learns_kernels = False

    def check_pairs(self, net: nn.Module, kernel_size: int | None, lr_size: int | None) -> None:
        """Refuse LR crops of that size under kernels of that size (None: not known), if it learns kernels."""

    def estimate(self, net: nn.Module, output: Any) -> Estimate:  # noqa: ANN401
        """Read what ``net(y)`` gave."""
        return Estimate(picture(output))

    def kernel_loss(self, net: nn.Module, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        """Loss of the kernel estimate against the true kernel (B, K, K), the LR and HR pictures y and x."""
        raise NotImplementedError


class DanCodes(Picture):
    """DAN: pictures and codes of all rounds. As in the published training, the last round alone is supervised."""

    learns_kernels = True

    def check_pairs(self, net: DAN, kernel_size: int | None, lr_size: int | None) -> None:
        if kernel_size not in (None, net.kernel_size):
            raise ValueError(f"the training set's kernels are {kernel_size} x {kernel_size}, but network_g.kernel_size "
                             f'is {net.kernel_size}: they must be alike')

    def estimate(self, net: DAN, output: Any) -> Estimate:  # noqa: ANN401
        return Estimate(picture(output), decode(output[1][-1], net.encoder[0]))

    def kernel_loss(self, net: DAN, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        self.check_pairs(net, kernel.shape[-1], None)
        return loss(output[1][-1], net.encode(kernel.flatten(1)))


class DanKernels(DanCodes):
    """DANv2: pictures, codes and kernels of all rounds, the last one supervised."""

    def estimate(self, net: DANv2, output: Any) -> Estimate:  # noqa: ANN401
        kernels = output[2][-1]
        return Estimate(picture(output), kernels.reshape(-1, net.kernel_size, net.kernel_size))

    def kernel_loss(self, net: DANv2, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        self.check_pairs(net, kernel.shape[-1], None)
        return loss(output[2][-1], kernel.flatten(1))


class LrKernels(Picture):
    """DCLS: picture and kernel in LR pixels, which convolves."""

    learns_kernels = True

    def check_pairs(self, net: DCLS, kernel_size: int | None, lr_size: int | None) -> None:
        if lr_size and lr_size < net.kernel_size:
            raise ValueError(f'datasets:train:gt_size must be at least {net.kernel_size} times the scale, as '
                             f'network_g.kernel_size is {net.kernel_size} LR pixels; its crops have {lr_size}')

    def estimate(self, net: DCLS, output: Any) -> Estimate:  # noqa: ANN401
        return Estimate(picture(output), output[1][:, 0].flip(-2, -1), 'lr')

    def kernel_loss(self, net: DCLS, output: Any, kernel: Tensor, y: Tensor, x: Tensor, loss: Loss) -> Tensor:  # noqa: ANN401
        scale = x.shape[-1] // y.shape[-1]
        return loss(output[1], lr_space_kernel(downscale_bicubic(x, scale), y, net.kernel_size))


def adapter(net: nn.Module) -> Picture:
    """The reader of this network's outputs."""
    known = {DAN: DanCodes, DANv2: DanKernels, DCLS: LrKernels}
    return next((reader() for kind, reader in known.items() if isinstance(net, kind)), Picture())


def picture(output: Any) -> Tensor:  # noqa: ANN401
    """The picture in what a network gave: the output itself, or the first of several; of rounds the last."""
    first = output if isinstance(output, Tensor) else output[0]
    return first[-1] if isinstance(first, (list, tuple)) else first
