"""R, the refinement U-Net of Phase 2 (KernelFusion, Section 4 and A.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _block(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class RefineUNet(nn.Module):
    """U-Net that maps an estimate of x0 to a better one; trained from scratch on one image (deep image prior).

    Five levels of 32 … 512 filters, with a block of two 3 x 3 convolutions (batch norm, ReLU) per level on the
    way down and up, max pooling by 2, bilinear upscaling by 2, concatenated skips, and a 3 x 3 convolution to the
    image's channels and tanh. Weights start at PyTorch's defaults (A.3). Kept in train mode, so that batch norm
    uses the one image's own statistics, as deep image priors do.

    The paper gives neither the kind of pooling and upscaling nor the size of the last convolution. With 1 x 1,
    R learns three to five times slower at the paper's rate: too slow for 100 + 20 steps per t, and the kernel,
    which then compensates for R's blur, shrinks to a point.

    Args:
        channels: filters from the input level to the bottom.
        image_channels: 3 for RGB.

    Shapes: (B, 3, H, W) in about [-1, 1] to (B, 3, H, W) in (-1, 1); any H and W: internally, the
    image is padded by edge replication to a multiple of 2^(levels - 1), at least twice that.

    Raises:
        ValueError: there are no levels, or one has no filters.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256, 512), image_channels: int = 3) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(f'channels must name at least one level, each of at least 1 filter, got {channels!r}')
        self.multiple = 2 ** (len(channels) - 1)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise([image_channels, *channels]))
        self.up = nn.ModuleList(_block(low + high, high) for low, high in pairwise(reversed(channels)))
        self.head = nn.Conv2d(channels[0], image_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        top, left = (self._missing(size) // 2 for size in (height, width))
        h = F.pad(x, (left, self._missing(width) - left, top, self._missing(height) - top), mode='replicate')
        skips = []
        for block in self.down:
            h = block(F.max_pool2d(h, 2) if skips else h)  # (B, 32 · 2^i, H / 2^i, W / 2^i)
            skips.append(h)
        skips.pop()
        for block in self.up:
            h = F.interpolate(h, scale_factor=2, mode='bilinear', align_corners=False)
            h = block(torch.cat([h, skips.pop()], dim=1))
        h = torch.tanh(self.head(h))
        return h[..., top:top + height, left:left + width]

    def _missing(self, size: int) -> int:
        """Pixels to add to reach a multiple, and at least two pixels at the bottom level, which batch norm needs."""
        return max(-size % self.multiple, 2 * self.multiple - size)
