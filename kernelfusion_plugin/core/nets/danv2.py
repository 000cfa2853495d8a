"""DANv2 (Luo, Huang, Li, Wang, Tan, 2021, "End-to-end Alternating Optimization for Blind Super Resolution").

The rounds are those of :mod:`.dan`. New are dual-path blocks, in which the condition is a stream of its own, and an
Estimator that gives the whole kernel, a softmax over its K² entries.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .dan import AlternatingNet, upscaler


class DualPathBlock(nn.Module):
    """(f, g) to (f + a(f)·b(g), g + b(g)); g may be (B, C, 1, 1), the same for all pixels."""

    def __init__(self, channels: int, condition: int, side: int, condition_side: int) -> None:
        super().__init__()
        self.body1 = two_convs(channels, channels, side, 0.2)
        self.body2 = two_convs(condition, channels, condition_side, 0.2)

    def forward(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        b = self.body2(g)
        return f + self.body1(f) * b, g + b


class DualPathGroup(nn.Module):
    """Blocks in sequence, with both streams doubled at the end.

    The paper adds the group's input to its output. In the code behind the published weights, the blocks overwrite that
    input in place, so the output is added to itself: 2·body(f, g), not (f, g) + body(f, g).
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*blocks)

    def forward(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.body:
            f, g = block(f, g)
        return 2 * f, 2 * g


class Restorer(nn.Module):
    """Picture (B, C, s·h, s·w) from y (B, C, h, w) and the kernel's code (B, L)."""

    def __init__(self, channels: int, blocks: int, groups: int, scale: int, code_length: int, colours: int) -> None:
        super().__init__()
        self.head1 = nn.Conv2d(colours, channels, 3, padding=1)
        self.head2 = nn.Conv2d(code_length, channels, 1)
        self.body = nn.Sequential(*(DualPathGroup(DualPathBlock(channels, channels, 3, 1) for _ in range(blocks))
                                    for _ in range(groups)))
        self.fusion = nn.Conv2d(channels, channels, 3, padding=1)
        self.upscale = upscaler(channels, scale, colours)

    def forward(self, y: Tensor, code: Tensor) -> Tensor:
        f, g = self.head1(y), self.head2(code[:, :, None, None])  # (B, channels, h, w), (B, channels, 1, 1)
        for group in self.body:
            f, g = group(f, g)
        return self.upscale(self.fusion(f))


class Estimator(nn.Module):
    """Kernel (B, K²), which sums to 1, from the picture (B, C, s·h, s·w) and y (B, C, h, w)."""

    def __init__(self, scale: int, kernel_size: int, colours: int, channels: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.head_LR = nn.Sequential(nn.Conv2d(colours, channels, 5, padding=2))
        self.head_HR = nn.Sequential(nn.Conv2d(colours, channels, 4 * scale + 1, stride=scale, padding=2 * scale))
        self.body = DualPathGroup(DualPathBlock(channels, channels, 3, 3) for _ in range(blocks))
        self.tail = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.AdaptiveAvgPool2d(1),
                                  nn.Conv2d(2 * channels, kernel_size ** 2, 1), nn.Softmax(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        f, _ = self.body(self.head_LR(y), self.head_HR(x))  # (B, channels, h, w)
        return self.tail(f).flatten(1)


class DANv2(AlternatingNet):
    """DAN, second version.

    Args:
        nf, nb, ng: channels, blocks per group and groups of the Restorer.
        upscale: s, 2, 3 or 4.
        input_para: L, length of the kernel's code.
        kernel_size: K.
        loop: number of rounds.
        in_nc: number of colours.
        pca: (K², L).
    """

    def __init__(self, nf: int = 64, nb: int = 10, ng: int = 5, upscale: int = 4, input_para: int = 10,
                 kernel_size: int = 21, loop: int = 4, in_nc: int = 3, pca: Tensor | None = None) -> None:
        super().__init__(loop, kernel_size, input_para, pca)
        self.Restorer = Restorer(nf, nb, ng, upscale, input_para, in_nc)
        self.Estimator = Estimator(upscale, kernel_size, in_nc)

    def estimate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The code (B, L), and the kernel (B, K²)."""
        k = self.Estimator(x, y)
        return self.encode(k), k


def two_convs(inputs: int, outputs: int, side: int, slope: float) -> nn.Sequential:
    """Two convolutions with filters of ``side`` x ``side`` and a leaky ReLU between them."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, side, padding=side // 2), nn.LeakyReLU(slope),
                         nn.Conv2d(outputs, outputs, side, padding=side // 2))
