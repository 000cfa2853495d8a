"""Pictures that were made small without much blur, as most people's are, come out no worse than by bicubic.

Preset quick, four times three minutes, so marked slow:

    python -m pytest -m slow -s tests/core/test_sharp_real.py

The pictures come with scikit-image and served for developing. PSNR on Y, 5 % of the border off.
"""

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core.degradation import synthesise, upscale_bicubic
from kernelfusion_plugin.core.kernels import square
from kernelfusion_plugin.core.metrics import psnr_y

SCALE, SIDE = 4, 128  # LR pixels


def bicubic_kernel():
    """That of a reduction by 4 with antialiasing (Keys 1981, a = -1/2, four times as wide), with its negative lobes."""
    d = ((torch.arange(24) - 11.5) / SCALE).abs()
    near, far = 1.5 * d ** 3 - 2.5 * d ** 2 + 1, -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2
    taps = torch.where(d <= 1, near, torch.where(d < 2, far, 0))
    return torch.outer(taps, taps) / taps.sum() ** 2


KERNELS = {'area': square(24, 4), 'bicubic': bicubic_kernel()}


@pytest.mark.slow
@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('name', ['coffee', 'astronaut'])
def test_sharp_pictures_are_not_spoilt(name, kernel):
    hr = torch.from_numpy(getattr(pytest.importorskip('skimage.data'), name)()).permute(2, 0, 1)[None]
    height, width = (min(n // SCALE, SIDE) * SCALE for n in hr.shape[-2:])
    top, left = ((n - length) // 2 for n, length in zip(hr.shape[-2:], (height, width)))
    hr = hr[..., top:top + height, left:left + width]
    y, x = (part.float() / 127.5 - 1 for part in (synthesise(hr, KERNELS[kernel], SCALE, 'reflect'), hr))
    border = round(0.05 * min(height, width))
    bicubic = psnr_y(upscale_bicubic(y, SCALE).clamp(-1, 1), x, border)
    ours = psnr_y(restore(y, KernelFusionConfig(preset='quick'), name=f'{name}_{kernel}').sr, x, border)
    print(f'{name}, reduced by {kernel}: bicubic {bicubic:.2f} dB, ours {ours:.2f} dB', flush=True)
    assert ours > bicubic
