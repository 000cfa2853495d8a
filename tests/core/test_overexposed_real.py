"""Photographs that are shaken and overexposed, restored with and without knowing that they are.

Preset quick, eight times two minutes or three, so marked slow; the figures in docs/measured.md come from here:

    python -m pytest -m slow -s tests/core/test_overexposed_real.py

The photographs come with scikit-image; coffee and astronaut served for developing. PSNR on Y, 5 % of the border off.
"""

import pytest
from overexposed import highlights_of, lamps_over, photograph, seen_through, stored

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core.degradation import upscale_bicubic
from kernelfusion_plugin.core.kernels import motion
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y

SCENES = {'lamps': lamps_over, 'highlights': highlights_of}
RIM = 4  # LR pixels


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'scene', 'seed'), [
    ('coffee', 'lamps', 3), ('astronaut', 'lamps', 5), ('rocket', 'lamps', 5), ('astronaut', 'highlights', 5)])
def test_overexposed_pictures_keep_their_kernel(name, scene, seed):
    kernel, picture = motion(24, seed), SCENES[scene](photograph(name, 368, 480))
    y = stored(seen_through(picture, kernel, rim=RIM))
    x = stored(picture[..., 4 * RIM:-4 * RIM, 4 * RIM:-4 * RIM])
    border = round(0.05 * min(x.shape[-2:]))
    bicubic = psnr_y(upscale_bicubic(y, 4).clamp(-1, 1), x, border)
    psnr, ncc = [], []
    for known in (False, True):
        result = restore(y, KernelFusionConfig(preset='quick', em={'overexposure': known}), name=f'{name}_{scene}')
        psnr.append(psnr_y(result.sr, x, border))
        ncc.append(kernel_ncc(result.kernel, kernel))
    print(f'{name}, {scene}, shake {seed}: bicubic {bicubic:.2f} dB, without {psnr[0]:.2f} dB, {ncc[0]:.3f}, '
          f'ours {psnr[1]:.2f} dB, {ncc[1]:.3f}', flush=True)
    assert psnr[1] > bicubic and psnr[1] > psnr[0]
