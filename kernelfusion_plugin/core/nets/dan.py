"""DAN: kernel and picture estimated alternately (Luo, Huang, Li, Wang, Tan, NeurIPS 2020, "Unfolding the Alternating
Optimization for Blind Super Resolution").

    x_i = Restorer(y, c_{i-1}),   c_i = Estimator(y, x_i),   i = 1 … loop,

with the same two networks in every round. c is the code of the kernel, Pᵀ·vec(k), with P the PCA matrix of its
family; c_0 is that of no blur. Module names are those of the published weights, which load strictly. Pictures are RGB
in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import delta


class ChannelAttention(nn.Sequential):
    """f times a weight per channel in (0, 1), computed from the channels' means by layers named ``name``."""

    def __init__(self, channels: int, reduction: int, activation: nn.Module, name: str) -> None:
        super().__init__()
        if channels < reduction:
            raise ValueError(f'nf is too small: channel attention divides {channels} channels by {reduction}')
        self.add_module(name, nn.Sequential(nn.Conv2d(channels, channels // reduction, 1), activation,
                                            nn.Conv2d(channels // reduction, channels, 1), nn.Sigmoid()))

    def forward(self, f: Tensor) -> Tensor:
        return f * super().forward(f.mean(dim=(-2, -1), keepdim=True))


class ConditionalBlock(nn.Module):
    """f + CA(conv(σ(conv([f, g])))): a residual block that sees a condition g alongside its features f."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        both = channels + condition
        self.body = nn.Sequential(nn.Conv2d(both, both, 3, padding=1), nn.LeakyReLU(0.2),
                                  nn.Conv2d(both, channels, 3, padding=1),
                                  ChannelAttention(channels, 16, nn.LeakyReLU(0.2), 'body'))

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        return f + self.body(torch.cat([f, g], dim=1))


class Restorer(nn.Module):
    """Picture (B, C, s·h, s·w) from y (B, C, h, w) and the kernel's code (B, L)."""

    def __init__(self, channels: int, blocks: int, scale: int, code_length: int, colours: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(colours, channels, 3, padding=1)
        self.body = nn.Sequential(*(ConditionalBlock(channels, code_length) for _ in range(blocks)))
        self.fusion = nn.Conv2d(channels, channels, 3, padding=1)
        self.upscale = upscaler(channels, scale, colours)

    def forward(self, y: Tensor, code: Tensor) -> Tensor:
        condition = code[:, :, None, None].expand(-1, -1, *y.shape[-2:])  # (B, L, h, w)
        f = self.head(y)
        for block in self.body:
            f = block(f, condition)
        return self.upscale(self.fusion(f))


class Estimator(nn.Module):
    """Code of the kernel (B, L) from the picture (B, C, s·h, s·w) and y (B, C, h, w)."""

    def __init__(self, scale: int, code_length: int, colours: int, channels: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.head_LR = nn.Conv2d(colours, channels, 1)
        self.head_HR = nn.Conv2d(colours, channels, 9, stride=scale, padding=4)
        self.body = nn.Sequential(*(ConditionalBlock(channels, channels) for _ in range(blocks)))
        self.out = nn.Conv2d(channels, code_length, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        f, condition = self.head_LR(y), self.head_HR(x)  # both (B, channels, h, w)
        for block in self.body:
            f = block(f, condition)
        return self.out(f).mean(dim=(-2, -1))


class AlternatingNet(nn.Module):
    """What both versions of DAN share: the rounds, and the PCA matrix as a buffer saved with the weights.

    Args:
        loop: number of rounds.
        kernel_size: K.
        code_length: L.
        pca: (K², L), see :func:`..kernel_pca.pca_matrix`; None: zeros, until weights that contain it are loaded.

    Raises:
        ValueError: pca has another shape.
    """

    def __init__(self, loop: int, kernel_size: int, code_length: int, pca: Tensor | None) -> None:
        super().__init__()
        shape = (kernel_size ** 2, code_length)
        if pca is not None and tuple(pca.shape) != shape:
            raise ValueError(f'the PCA matrix of kernel_size {kernel_size} and input_para {code_length} must be '
                             f'{shape[0]} x {shape[1]}, got {" x ".join(map(str, pca.shape))}')
        self.loop = loop
        self.kernel_size = kernel_size
        no_blur = delta(kernel_size)[None]
        self.register_buffer('encoder', torch.zeros(1, *shape) if pca is None else pca.float()[None].clone())
        self.register_buffer('init_kernel', no_blur)
        self.register_buffer('init_ker_map', self.encode(no_blur.flatten(1)))

    def forward(self, y: Tensor) -> tuple[list[Tensor], ...]:
        """y (B, C, h, w) to the pictures (B, C, s·h, s·w) and estimates of all rounds; the last ones are the result.

        No gradient flows from one network into the other: each learns from its own output.
        """
        code = self.init_ker_map.expand(y.shape[0], -1)
        rounds = []
        for _ in range(self.loop):
            x = self.Restorer(y, code.detach())
            code, *kernel = self.estimate(x.detach(), y)
            rounds.append((x, code, *kernel))
        return tuple(map(list, zip(*rounds)))

    def estimate(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The kernel's code (B, L) and, if it is estimated, the kernel (B, K²); see :class:`Estimator` for x and y."""
        raise NotImplementedError

    def encode(self, kernels: Tensor) -> Tensor:
        """Codes (B, L) of kernels (B, K²): k·P."""
        return kernels @ self.encoder[0]

    def has_pca(self) -> bool:
        """Whether there is a PCA matrix, from a file or from loaded weights."""
        return bool(self.encoder.any())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object, **kwargs: object) -> None:
        """Also accept a PCA matrix without the leading dimension of 1."""
        encoder = state_dict.get(f'{prefix}encoder')
        if encoder is not None and encoder.ndim == 2:
            state_dict[f'{prefix}encoder'] = encoder[None]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class DAN(AlternatingNet):
    """DAN, first version.

    Args:
        nf, nb: channels and blocks of the Restorer.
        upscale: s, 2, 3 or 4.
        input_para: L, length of the kernel's code.
        kernel_size: K of the kernels that the PCA matrix was computed from.
        loop: number of rounds.
        in_nc: number of colours.
        pca: (K², L).
    """

    def __init__(self, nf: int = 64, nb: int = 40, upscale: int = 4, input_para: int = 10, kernel_size: int = 21,
                 loop: int = 4, in_nc: int = 3, pca: Tensor | None = None) -> None:
        super().__init__(loop, kernel_size, input_para, pca)
        self.Restorer = Restorer(nf, nb, upscale, input_para, in_nc)
        self.Estimator = Estimator(upscale, input_para, in_nc)

    def estimate(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        """The code (B, L)."""
        return (self.Estimator(x, y),)


def upscaler(channels: int, scale: int, colours: int) -> nn.Sequential:
    """Features (B, channels, h, w) to a picture (B, colours, s·h, s·w) by pixel shuffle, x4 in two steps.

    Raises:
        ValueError: the scale is not 2, 3 or 4.
    """
    if scale not in (2, 3, 4):
        raise ValueError(f'upscale must be 2, 3 or 4, got {scale}')
    layers: list[nn.Module] = []
    for factor in (2, 2) if scale == 4 else (scale,):
        layers += [nn.Conv2d(channels, channels * factor ** 2, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers, nn.Conv2d(channels, colours, 3, padding=1))
