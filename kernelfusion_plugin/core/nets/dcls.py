"""DCLS: features deblurred with an estimated kernel by constrained least squares (Luo et al., CVPR 2022).

    k' = Estimator(y),   x = Restorer(y, k'),

with k' in LR pixels: a blur before downscaling is modelled as another one after it. Module names are those of the
published weights, which load strictly. Pictures are RGB in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deconvolution import constrained_least_squares
from ..sections import check_choice
from .dan import ChannelAttention, upscaler
from .danv2 import DualPathGroup, two_convs

FILTERS = {11: (7, 3, 3, 1), 21: (11, 7, 5, 1), 31: (11, 9, 7, 5, 3)}  # sides of the Estimator's filters, by K
SMALLEST = 7  # pixels: the least that three 3 x 3 convolutions without padding take
HIDDEN = 16  # channels between the Estimator's filters


class ResidualBlock(nn.Module):
    """f + conv(σ(conv(f)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, f: Tensor) -> Tensor:
        return f + self.conv2(F.leaky_relu(self.conv1(f), 0.1))


class DualPathBlock(nn.Module):
    """(f, g) to (f + CA(conv(σ([a(f), b(g)]))), g + CA(b(g)))."""

    def __init__(self, channels: int, primitive: int) -> None:
        super().__init__()
        self.body1 = two_convs(channels, channels, 3, 0.1)
        self.body2 = two_convs(primitive, primitive, 3, 0.1)
        self.CA_body1 = nn.Sequential(nn.LeakyReLU(0.1), nn.Conv2d(channels + primitive, channels, 3, padding=1),
                                      ChannelAttention(channels, 4, nn.ReLU(), 'conv_du'))
        self.CA_body2 = ChannelAttention(primitive, 4, nn.ReLU(), 'conv_du')

    def forward(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.body1(f), self.body2(g)
        return f + self.CA_body1(torch.cat([a, b], dim=1)), g + self.CA_body2(b)


class Deconvolution(nn.Module):
    """Removes the blur k' from features by constrained least squares, with smoothness filters computed from them.

    Each channel's 3 x 3 filter P sums to 0, as a Laplacian does, so constants are not penalised.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = channels // reduction
        self.reduce_feature = nn.Conv2d(channels, inner, 1)
        self.grad_filter = nn.Sequential(
            nn.Conv2d(inner, inner, 3), nn.LeakyReLU(0.1), nn.Conv2d(inner, inner, 3), nn.LeakyReLU(0.1),
            nn.Conv2d(inner, inner, 3), nn.AdaptiveAvgPool2d(3), nn.Conv2d(inner, inner, 1))
        self.expand_feature = nn.Conv2d(inner, channels, 1)

    def forward(self, f: Tensor, k: Tensor) -> Tensor:
        g = self.reduce_feature(f)  # (B, inner, h, w)
        p = self.grad_filter(g).exp()  # (B, inner, 3, 3)
        p = p - p.mean(dim=(-2, -1), keepdim=True)
        margin = k.shape[-1]  # the transform is circular: whatever wraps around ends up in the margin
        wide = constrained_least_squares(F.pad(g, (margin,) * 4, mode='replicate'), k, p)
        return self.expand_feature(wide[..., margin:-margin, margin:-margin])


class Estimator(nn.Module):
    """Kernel k' (B, 1, K, K) in LR pixels, sum 1, from y: the convolution of a chain of filters computed from y."""

    def __init__(self, channels: int, kernel_size: int, latent: int, colours: int, softmax: bool) -> None:
        super().__init__()
        check_choice('kernel_size of DCLS', kernel_size, FILTERS)
        self.kernel_size, self.colours, self.softmax = kernel_size, colours, softmax
        self.head = nn.Sequential(nn.Conv2d(colours, channels, 7, padding=3))
        self.body = nn.Sequential(nn.Sequential(*(ResidualBlock(channels) for _ in range(3))))
        self.tail = nn.Sequential(
            nn.Conv2d(channels, channels, 3), nn.LeakyReLU(0.1), nn.Conv2d(channels, channels, 3),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, latent, 1), nn.Flatten())
        sides = FILTERS[kernel_size]
        widths = [colours, *[HIDDEN] * (len(sides) - 1), colours]
        self.shapes = [(outputs, inputs, side, side) for outputs, inputs, side in zip(widths[1:], widths, sides)]
        self.dec = nn.ModuleList(nn.Linear(latent, o * i * side * side) for o, i, side, _ in self.shapes)
        self._start_sharp()

    def forward(self, y: Tensor) -> Tensor:
        f = self.head(y)
        latent = self.tail(self.body(f) + f)  # (B, latent)
        batch = y.shape[0]
        k = y.new_ones(1, batch * self.colours, 1, 1)
        for i, (layer, (outputs, *shape)) in enumerate(zip(self.dec, self.shapes, strict=True)):
            filters = layer(latent).reshape(batch * outputs, *shape)
            k = F.conv2d(k, filters, padding=0 if i else self.kernel_size - 1, groups=batch)  # one group per picture
        k = k.reshape(batch, self.colours, self.kernel_size, self.kernel_size).flip(-2, -1).mean(1, keepdim=True)
        if self.softmax:
            k = k.flatten(1).softmax(1).reshape(k.shape)
        return k / k.sum(dim=(-2, -1), keepdim=True)

    def _start_sharp(self) -> None:
        """Initialise for training near no blur, so that the kernel's sum, by which it is divided, is far from 0."""
        for layer, (outputs, inputs, side, _) in zip(self.dec, self.shapes, strict=True):
            middle = torch.zeros(outputs, inputs, side, side)
            middle[..., side // 2, side // 2] = 1 / inputs
            with torch.no_grad():
                layer.weight.mul_(0.1)
                layer.bias.copy_(middle.flatten())


class Restorer(nn.Module):
    """Picture (B, C, s·h, s·w) in [0, 1] from y (B, C, h, w) and k' (B, 1, K, K)."""

    def __init__(self, channels: int, blocks: int, groups: int, scale: int, colours: int, reduction: int) -> None:
        super().__init__()
        primitive = channels // reduction
        self.conv_first = nn.Conv2d(colours, channels, 3, padding=1)
        self.feature_block = nn.Sequential(*(ResidualBlock(channels) for _ in range(3)))
        self.head1 = nn.Conv2d(channels, primitive, 3, padding=1)
        self.head2 = Deconvolution(channels, reduction)
        self.body = nn.Sequential(*(DualPathGroup(DualPathBlock(channels, primitive) for _ in range(blocks))
                                    for _ in range(groups)))
        self.fusion = nn.Conv2d(channels + primitive, channels, 3, padding=1)
        self.upscale = upscaler(channels, scale, colours)

    def forward(self, y: Tensor, k: Tensor) -> Tensor:
        first = self.conv_first(y)
        features = self.feature_block(first)
        f, g = self.head2(features, k), self.head1(features)  # deblurred (B, channels, h, w), original (B, …)
        for group in self.body:
            f, g = group(f, g)
        return self.upscale(self.fusion(torch.cat([g, f], dim=1)) + first).clamp(0, 1)


class DCLS(nn.Module):
    """DCLS.

    Args:
        nf, nb, ng: channels, blocks per group and groups of the Restorer.
        upscale: s, 2, 3 or 4.
        input_para: length of the vector that the kernel's filters are computed from.
        kernel_size: K of the kernel in LR pixels: 11, 21 or 31.
        reduction: nf divided by the number of channels that are deconvolved.
        in_nc: number of colours.
        softmax: end the Estimator with a softmax; only the published x2 weights for anisotropic kernels do.

    Raises:
        ValueError: there is no network for this kernel_size or upscale.
    """

    def __init__(self, nf: int = 64, nb: int = 10, ng: int = 5, upscale: int = 4, input_para: int = 256,
                 kernel_size: int = 21, reduction: int = 4, in_nc: int = 3, softmax: bool = False) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.Restorer = Restorer(nf, nb, ng, upscale, in_nc, reduction)
        self.Estimator = Estimator(nf, kernel_size, input_para, in_nc, softmax)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, C, h, w) to the picture (B, C, s·h, s·w) and k' (B, 1, K, K), which *convolves* (does not correlate).

        No gradient flows from the Restorer into the Estimator.

        Raises:
            ValueError: y is too small.
        """
        if min(y.shape[-2:]) < SMALLEST:
            raise ValueError(f'DCLS takes pictures of at least {SMALLEST} x {SMALLEST}, got '
                             f'{y.shape[-1]} x {y.shape[-2]} (width x height)')
        k = self.Estimator(y)
        return self.Restorer(y, k.detach()), k
