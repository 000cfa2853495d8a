"""MCFormer, the modulated conditional transformer of BlindDiff (Li et al., Section 3.3): noise and blur kernel in one.

Its layers are Restormer's (``restormer``). Module names are those of the released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..degradation import upscale_bicubic
from ..sections import check_choice
from .patch_net import sinusoidal_embedding, through
from .restormer import ChannelAttention, Down, GatedFeedForward, PixelNorm, Up

MULTIPLE = 8  # divides x_t's height and width: four levels, each half the size of the previous one
UPSAMPLINGS = ('pil', 'torch')
CONTRAST_GAIN = 10.0  # of the kernel estimator's first layer at initialisation


class Prediction(NamedTuple):
    """The network's output for x_t: eps (B, 3, H, W); kernel (B, K, K), each summing to 1; v (B, 3, H, W) or None.

    ``v`` places the variance between its bounds, see :meth:`~..diffusion.Schedule.learned_variance`.
    """

    eps: Tensor
    kernel: Tensor
    v: Tensor | None


class _Time(nn.Module):
    """Fourier features of t; has no weights, but occupies index 0 of ``t_embedder``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return sinusoidal_embedding(t, self.dim)


class _Block(nn.Module):
    """Kernel-modulated transformer block, Eqs. 16 and 17: scale and shift before MDTA and before GDFN.

    Both are residual with normalised input, as in the released code; Eq. 17 as printed has no norm.
    """

    def __init__(self, dim: int, heads: int, expansion: float, embed_dim: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(dim)
        self.attn = ChannelAttention(dim, heads)
        self.norm2 = PixelNorm(dim)
        self.ffn = GatedFeedForward(dim, expansion)
        self.modulation = nn.Sequential(nn.Mish(), nn.Linear(embed_dim, 4 * dim))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        tau1, gamma1, tau2, gamma2 = self.modulation(embedding)[..., None, None].chunk(4, dim=1)  # (B, C, 1, 1) each
        x = x + self.attn(self.norm1(x) * (1 + gamma1) + tau1)
        return x + self.ffn(self.norm2(x) * (1 + gamma2) + tau2)


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def _predictor(channels: int, dim: int, layers: int, outputs: int) -> nn.Sequential:
    """K of Eq. 15, up to the code: 5 x 5 convolutions, the fourth with stride 2, and global average pooling."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Conv2d(channels if i == 0 else dim, dim, 5, stride=2 if i == 3 else 1, padding=2),
                  nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, outputs, 1), nn.Flatten())


def _start_estimator(predictor: nn.Sequential) -> None:
    """Initialise so that the estimator learns from the first steps on; the paper gives no initialisation.

    Blur shows in y's contrasts, a few tenths at most, next to x_t's noise of standard deviation 1. With PyTorch's
    default weights that noise swamps every ReLU, pooling leaves only the mean colour, and the kernel of a net of dim 16
    was still the mean kernel after 750 steps. So the first layer starts blind to x_t and to constants, with a high
    gain: the same net left the mean kernel behind within 200 steps.
    """
    layers = [layer for layer in predictor if isinstance(layer, nn.Conv2d) and layer.kernel_size == (5, 5)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, a=0.2)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        first = layers[0].weight
        first -= first.mean((2, 3), keepdim=True)
        first *= CONTRAST_GAIN
        first[:, :3] = 0


class ModulatedTransformer(nn.Module):
    """MCFormer: eps(x_t, t, y) and k(x_t, y), BlindDiff's denoiser and its kernel estimator.

    The estimator sees upscaled y alongside x_t (Eq. 15) and ends in one of two heads:

    * with a ``basis``, the paper's: a code of a few coefficients, k = mean + code · components (PCA, as in SRMD and
      IKC). Components of kernels that sum to 1 sum to 0, so k sums to 1 automatically.
    * without one, the released code's: a softmax over all K² entries, any kernel.

    The code, or the softmax's kernel, modulates every block of the backbone together with t. The output is added to
    x_t. The stride of the estimator's layers and the width of its MLP are not in the paper but from the released code.

    Args:
        scale: s.
        dim: channels of the first level; each further level has twice as many. A multiple of twice the heads.
        num_blocks: transformer blocks of the four levels, encoder and decoder alike.
        num_refinement_blocks: blocks after the decoder.
        heads: attention heads of the four levels.
        ffn_expansion_factor: hidden channels of GDFN relative to its input.
        kernel_size: K.
        basis: (mean (K²,), components (n, K²)), kept with the weights; None: softmax.
        predictor_layers: convolutions of the kernel estimator; the paper has four, the released weights six.
        modulation: False: only t modulates the blocks (Table 3, models A and B).
        learned_variance: also predict ``v``.
        upsampling: of y: ``pil``, bicubic with a = -0.5, or ``torch``, with a = -0.75 (released weights).

    Shapes: x_t (B, 3, H, W), H and W multiples of 8; t (B,), 0 … T - 1; y (B, 3, H / s, W / s).

    Raises:
        ValueError: an argument is out of range, or sizes do not fit (forward).
    """

    def __init__(self, scale: int = 4, dim: int = 48, num_blocks: Sequence[int] = (2, 3, 6, 8),
                 num_refinement_blocks: int = 2, heads: Sequence[int] = (1, 2, 4, 8),
                 ffn_expansion_factor: float = 2.66, kernel_size: int = 21,
                 basis: tuple[Tensor, Tensor] | None = None, predictor_layers: int = 4, modulation: bool = True,
                 learned_variance: bool = False, upsampling: str = 'pil') -> None:
        super().__init__()
        _check(dim, num_blocks, heads, predictor_layers, upsampling)
        self.scale, self.kernel_size, self.upsampling = scale, kernel_size, upsampling
        self.modulation, self.learned_variance = modulation, learned_variance
        taps = kernel_size ** 2
        self.has_basis = basis is not None
        if basis is not None:
            mean, components = basis
            if mean.shape != (taps,) or components.shape[1:] != (taps,):
                raise ValueError(f'the basis must have {taps} entries per kernel, got {tuple(mean.shape)} and '
                                 f'{tuple(components.shape)}')
            self.register_buffer('kernel_mean', mean.clone())
            self.register_buffer('kernel_components', components.clone())
        code = len(basis[1]) if basis is not None else taps

        def level(index: int, blocks: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(_Block(width, heads[index], ffn_expansion_factor, dim) for _ in range(blocks))

        self.t_embedder = nn.Sequential(_Time(dim), nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
        self.patch_embed = _PatchEmbed(6, dim)
        self.predictor = _predictor(6, dim, predictor_layers, code)
        self.encoder_level1 = level(0, num_blocks[0], dim)
        self.down1_2 = Down(dim)
        self.encoder_level2 = level(1, num_blocks[1], 2 * dim)
        self.down2_3 = Down(2 * dim)
        self.encoder_level3 = level(2, num_blocks[2], 4 * dim)
        self.down3_4 = Down(4 * dim)
        self.latent = level(3, num_blocks[3], 8 * dim)
        self.up4_3 = Up(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = level(2, num_blocks[2], 4 * dim)
        self.up3_2 = Up(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = level(1, num_blocks[1], 2 * dim)
        self.up2_1 = Up(2 * dim)
        self.decoder_level1 = level(0, num_blocks[0], 2 * dim)  # the skip is concatenated and not reduced
        self.refinement = level(0, num_refinement_blocks, 2 * dim)
        if modulation:
            self.k_mlp = nn.Sequential(nn.Linear(code, dim), nn.Mish(), nn.Linear(dim, dim))
        self.output = nn.Conv2d(2 * dim, 6 if learned_variance else 3, 3, padding=1, bias=False)
        _start_estimator(self.predictor)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Prediction:
        self._check_sizes(x_t, y)
        if self.upsampling == 'pil':
            y_up = upscale_bicubic(y, self.scale)
        else:
            y_up = F.interpolate(y, scale_factor=self.scale, mode='bicubic')
        pair = torch.cat([x_t, y_up], dim=1)  # (B, 6, H, W)
        code, kernel = self._kernel(pair)
        embedding = self.t_embedder[1:](self.t_embedder[0](t).to(x_t.dtype))  # (B, C)
        if self.modulation:
            embedding = embedding + self.k_mlp(code)
        out = self.output(self._backbone(self.patch_embed(pair), embedding))
        eps, v = out.chunk(2, dim=1) if self.learned_variance else (out, None)
        return Prediction(x_t + eps, kernel, None if v is None else x_t + v)

    def _kernel(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """The modulating code (B, n), and the kernel (B, K, K)."""
        code = self.predictor(pair)
        if self.has_basis:
            kernel = self.kernel_mean + code @ self.kernel_components
        else:
            kernel = code = code.softmax(1)
        return code, kernel.reshape(-1, self.kernel_size, self.kernel_size)

    def _backbone(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H, W)."""
        skip1 = through(self.encoder_level1, h, embedding)
        skip2 = through(self.encoder_level2, self.down1_2(skip1), embedding)  # (B, 2C, H / 2, W / 2)
        skip3 = through(self.encoder_level3, self.down2_3(skip2), embedding)  # (B, 4C, H / 4, W / 4)
        h = through(self.latent, self.down3_4(skip3), embedding)  # (B, 8C, H / 8, W / 8)
        h = self.reduce_chan_level3(torch.cat([self.up4_3(h), skip3], dim=1))
        h = self.up3_2(through(self.decoder_level3, h, embedding))
        h = self.reduce_chan_level2(torch.cat([h, skip2], dim=1))
        h = self.up2_1(through(self.decoder_level2, h, embedding))
        h = through(self.decoder_level1, torch.cat([h, skip1], dim=1), embedding)
        return through(self.refinement, h, embedding)

    def _check_sizes(self, x_t: Tensor, y: Tensor) -> None:
        height, width = x_t.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE or (height, width) != tuple(self.scale * n for n in y.shape[-2:]):
            raise ValueError(f'x_t must be {self.scale} times as large as y, height and width multiples of {MULTIPLE}; '
                             f'got {height} x {width} and {y.shape[-2]} x {y.shape[-1]}')


def _check(dim: int, num_blocks: Sequence[int], heads: Sequence[int], layers: int, upsampling: str) -> None:
    if len(num_blocks) != 4 or len(heads) != 4 or min(*num_blocks, *heads, layers) < 1:
        raise ValueError('num_blocks and heads must have four entries of at least 1 each, predictor_layers at least 1; '
                         f'got {list(num_blocks)}, {list(heads)}, {layers}')
    if dim < 2 or dim % 2 or any(2 ** level * dim % count for level, count in enumerate(heads)):
        raise ValueError(f'dim must be even, and 1, 2, 4 and 8 times dim multiples of the heads {list(heads)}, '
                         f'got {dim}')
    check_choice('upsampling', upsampling, UPSAMPLINGS)
