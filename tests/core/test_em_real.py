"""Diffusion EM, preset quick, on the middles of four DIV2K images; some ten minutes on two cores, so marked slow:

    python -m pytest -m slow -s tests/core/test_em_real.py

0802 served for developing, the others only for this report. ``KERNELFUSION_SHEETS`` names a folder for pictures.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core.degradation import upscale_bicubic
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y

CASES = ('0802_k05', '0813_k07', '0814_k10', '0827_k07')


def central_piece(path, size):
    from PIL import Image
    image = torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)[None].float() / 127.5 - 1
    return image, [(n - size) // 2 for n in image.shape[-2:]]


def pieces(shared_data, case, size=128, scale=4):
    """The LR piece and the HR piece that lies under it."""
    lr, (top, left) = central_piece(shared_data / 'div2k' / 'LRx4' / f'{case}.png', size)
    hr, _ = central_piece(shared_data / 'div2k' / 'HR' / f'{case[:4]}.png', size)
    return (lr[..., top:top + size, left:left + size],
            hr[..., scale * top:scale * (top + size), scale * left:scale * (left + size)])


def save_sheet(path, pictures, kernels):
    from PIL import Image
    tiles = [((p.clamp(-1, 1)[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() for p in pictures]
    for k in kernels:
        side = tiles[0].shape[0] // 2
        grey = np.kron((k / k.max()).clamp(0, 1).numpy() * 255, np.ones((side // k.shape[0],) * 2)).astype(np.uint8)
        tile = np.zeros((tiles[0].shape[0], side, 3), np.uint8)
        tile[:grey.shape[0], :grey.shape[1]] = grey[..., None]
        tiles.append(tile)
    Image.fromarray(np.concatenate(tiles, axis=1)).save(path)


@pytest.mark.slow
def test_quick_preset_beats_bicubic(shared_data):
    kernels = np.load(shared_data / 'kernels' / 'blind144_gt.npy')
    gains = []
    for case in CASES:
        y, x = pieces(shared_data, case)
        truth = torch.from_numpy(kernels[int(case[-2:])])
        result = restore(y, KernelFusionConfig(preset='quick', solver='em'), name=case)
        bicubic = upscale_bicubic(y, 4).clamp(-1, 1)
        gains.append(psnr_y(result.sr, x) - psnr_y(bicubic, x))
        print(f'{case}: bicubic {psnr_y(bicubic, x):.2f} dB, ours {psnr_y(result.sr, x):.2f} dB ({gains[-1]:+.2f}), '
              f'kernel correlation {kernel_ncc(result.kernel, truth):.3f}, '
              f'seconds {result.seconds["phase1"]:.0f} + {result.seconds["phase2"]:.0f}', flush=True)
        if 'KERNELFUSION_SHEETS' in os.environ:
            save_sheet(Path(os.environ['KERNELFUSION_SHEETS']) / f'{case}.png', [bicubic, result.sr, x],
                       [result.kernel, truth])
    print(f'mean gain {np.mean(gains):+.2f} dB')
    assert np.mean(gains) >= 1.0
    assert min(gains) >= -0.3
