"""PD, the patch diffusion network (KernelFusion, A.2): six blocks, receptive field exactly 15 x 15."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

RECEPTIVE_FIELD = 15


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Fourier features of the time step, (B,) to (B, dim), as in DDPM."""
    half = dim // 2
    freqs = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def through(blocks: Iterable[nn.Module], h: Tensor, embedding: Tensor) -> Tensor:
    """h after ``blocks`` in sequence, each of which also sees the embedding."""
    for block in blocks:
        h = block(h, embedding)
    return h


class PatchBlock(nn.Module):
    """Two convolutions with a scale and shift from the time embedding between them.

    The first is 3 x 3, the second ``kernel2`` x ``kernel2``. If input and output have the same number of
    channels, the block is residual.
    """

    def __init__(self, in_channels: int, channels: int, kernel2: int, embed_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel2, padding=kernel2 // 2)
        self.modulation = nn.Linear(embed_dim, 2 * channels)
        self.act = nn.SiLU(inplace=True)
        self.residual = in_channels == channels

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = self.act(self.conv1(x) * (1 + scale) + shift)
        h = self.act(self.conv2(h))
        return x + h if self.residual else h


class PatchDiffusionNet(nn.Module):
    """Velocity v(x_t, t) of a diffusion over 15 x 15 patches.

    One block of two 3 x 3 convolutions, then five of 3 x 3 and 1 x 1: 1 + 2·7 = 15. No stride, no norm,
    no global layer, so an image is a batch of overlapping patches, and any size is accepted. Weights start at
    PyTorch's defaults, as in the paper; the last projection is a 1 x 1 convolution to the image's channels.

    Args:
        channels: filters of the hidden layers; the paper has 128.
        image_channels: 3 for RGB.

    Shapes: x_t (B, 3, H, W) in about [-1, 1] plus noise, t (B,) int64 in 0 … T - 1; v (B, 3, H, W).
    """

    def __init__(self, channels: int = 128, image_channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.reach = RECEPTIVE_FIELD // 2
        embed_dim = 4 * channels
        self.embed = nn.Sequential(nn.Linear(channels, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim),
                                   nn.SiLU())
        self.blocks = nn.ModuleList(
            [PatchBlock(image_channels, channels, 3, embed_dim)]
            + [PatchBlock(channels, channels, 1, embed_dim) for _ in range(5)])
        self.head = nn.Conv2d(channels, image_channels, 1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        embedding = self.embed(sinusoidal_embedding(t, self.channels).to(x_t.dtype))  # (B, 4C)
        return self.head(through(self.blocks, x_t, embedding))
