"""The denoising U-Net of the texture prior: small, and of finite reach, as it has no normalisation or attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .patch_net import sinusoidal_embedding, through

EMBED_IN, EMBED_DIM = 64, 128


class _Block(nn.Module):
    """x + conv(silu(conv(x) · (1 + scale) + shift)), scale and shift from the time step; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(EMBED_DIM, 2 * channels)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)  # (B, C) each
        if len(x) == 1 and not torch.is_grad_enabled():
            return self._of_one(x, 1 + scale[0], shift[0])
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        return x + self.conv2(F.silu(self.conv1(x) * (1 + scale) + shift))

    def _of_one(self, x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        """The same for one picture without a gradient: modulation is folded into the weights, the rest is in place."""
        weight = self.conv1.weight * factor[:, None, None, None]
        h = F.conv2d(x, weight, self.conv1.bias * factor + shift, padding=1)
        return self.conv2(F.silu(h, inplace=True)).add_(x)


class TextureUNet(nn.Module):
    """Velocity v(x_t, t) of a diffusion over pictures.

    Levels of ``channels`` filters, each half the size of the previous one: 2 x 2 convolutions with stride 2 lead
    down, their transposes lead up, and skips are added. Each level has two residual blocks down and two up.

    Args:
        channels: filters per level, finest first.

    Shapes: x_t (B, 3, H, W) in about [-1, 1] plus noise, t (B,) int64; v (B, 3, H, W). Any H and W: internally,
    the picture is padded by replication at the bottom and right to a multiple of 2^(levels - 1).
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        first, last = channels[0], channels[-1]
        self.multiple = 2 ** (len(channels) - 1)
        # Head and tail; four convolutions down and four up per level; four at the bottom; one pixel of its grid.
        self.reach = 2 + 8 * (self.multiple - 1) + 4 * self.multiple + self.multiple
        self.embed = nn.Sequential(nn.Linear(EMBED_IN, EMBED_DIM), nn.SiLU(), nn.Linear(EMBED_DIM, EMBED_DIM),
                                   nn.SiLU())
        self.head = nn.Conv2d(3, first, 3, padding=1)
        self.encoder = nn.ModuleList(nn.ModuleList([_Block(c), _Block(c)]) for c in channels[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels))
        self.bottom = nn.ModuleList([_Block(last), _Block(last)])
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(channels))
        self.decoder = nn.ModuleList(nn.ModuleList([_Block(c), _Block(c)]) for c in channels[:-1])
        self.tail = nn.Conv2d(first, 3, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        embedding = self.embed(sinusoidal_embedding(t, EMBED_IN).to(x_t.dtype))  # (B, 128)
        height, width = x_t.shape[-2:]
        missing = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(missing):  # padding by 0 would still lose the memory layout, and with it all speed
            x_t = F.pad(x_t, missing, mode='replicate').contiguous(memory_format=torch.channels_last)
        h = self.head(x_t)
        skips = []
        for blocks, down in zip(self.encoder, self.down):
            h = through(blocks, h, embedding)
            skips.append(h)
            h = down(h)  # (B, C_i+1, H / 2^i+1, W / 2^i+1)
        h = through(self.bottom, h, embedding)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up)):
            h = through(blocks, up(h) + skips.pop(), embedding)
        return self.tail(h)[..., :height, :width]
