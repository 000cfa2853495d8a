"""A kernel per region on photographs 512 wide at x4, preset quick; an hour on two cores, so marked slow:

    python -m pytest -m slow -s tests/core/test_regions_real.py

The boundary between the two blurs is sharp, unlike our own windows. ``KERNELFUSION_SHEETS`` names a folder for
pictures.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, report, restore
from kernelfusion_plugin.core.degradation import synthesise, upscale_bicubic
from kernelfusion_plugin.core.kernels import motion
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y

GLOBAL = KernelFusionConfig(preset='quick')
REGIONS = KernelFusionConfig(preset='quick', regions='auto')  # 1x2 of the cup, 2x2 of the astronaut


def two_halves(left, right, photo):
    """(y, x, kernels (1, 2, K, K)): the left half of y blurred by one kernel, the right half by the other."""
    data = pytest.importorskip('skimage.data')
    hr = torch.from_numpy(np.ascontiguousarray(getattr(data, photo)())).permute(2, 0, 1)[None]
    kernels = torch.stack([motion(24, seed) for seed in (left, right)])[None]
    whole = [synthesise(hr, k, 4, 'reflect').float() / 127.5 - 1 for k in kernels[0]]
    left = (whole[0].shape[-1] - 128) // 2  # the middle 128 columns
    y = torch.cat([whole[0][..., left:left + 64], whole[1][..., left + 64:left + 128]], -1)
    return y, hr[..., 4 * left:4 * left + 512].float() / 127.5 - 1, kernels


def measure(photo, left, right):
    """PSNR of bicubic, of the whole picture's kernel, of regions and of the true kernels; and the result of regions."""
    name = f'{photo} {left} {right}'
    y, x, truth = two_halves(left, right, photo)
    found = restore(y, REGIONS, name=name)
    results = {'global kernel': restore(y, GLOBAL, name=name, kernel=found.kernel, prior_state=found.prior_state),
               'regions': found,
               'true kernels': restore(y, GLOBAL, name=name, kernel=truth, prior_state=found.prior_state)}
    pictures = {'bicubic': upscale_bicubic(y, 4).clamp(-1, 1), **{key: result.sr for key, result in results.items()}}
    scores = {key: psnr_y(sr, x) for key, sr in pictures.items()}
    print(f'\n{name}: ' + ', '.join(f'{key} {score:.2f} dB' for key, score in scores.items()))
    print("kernel correlations: whole picture's "
          + ', '.join(f'{kernel_ncc(found.kernel, k):.3f}' for k in truth[0]) + "; regions' "
          + ', '.join(f'{kernel_ncc(*both):.3f}' for both in zip(found.kernels[0], truth[0]))
          + f'; seconds {found.seconds["phase1"]:.0f} + {found.seconds["phase2"]:.0f}, of them with one kernel: final '
          + f'passes {results["global kernel"].seconds["phase2"]:.0f}', flush=True)
    if 'KERNELFUSION_SHEETS' in os.environ:
        folder = Path(os.environ['KERNELFUSION_SHEETS'])
        for key, sr in {**pictures, 'truth': x, 'LR': y}.items():
            report.save_picture(folder / f'{name} {key}.png', report.to_picture(sr))
        report.save_kernel(folder, name, found.kernel.numpy())
        report.save_region_kernels(folder, name, found.kernels.numpy())
        report.save_region_kernels(folder, f'{name} true', truth.numpy())
    return scores, found


@pytest.mark.slow
def test_two_halves_with_different_kernels_gain_a_decibel():
    scores, _ = measure('coffee', 5, 10)
    assert scores['regions'] >= scores['global kernel'] + 1


@pytest.mark.slow
@pytest.mark.parametrize(('photo', 'left', 'right'), [('coffee', 5, 5), ('astronaut', 3, 8)])
def test_regions_cost_nothing_where_they_do_not_help(photo, left, right):
    scores, _ = measure(photo, left, right)
    assert scores['regions'] >= scores['global kernel'] - 0.1
