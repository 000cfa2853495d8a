"""Algorithm 1 on a real cut, through the public API; half an hour on two cores, so it is marked slow:

    python -m pytest -m slow -s tests/core/test_joint_real.py

``KERNELFUSION_JOINT_CASE`` picks another file of div2k/LRx4 (default 0802_k00).

The preset lets R learn at 5e-4. At the paper's 1e-4 this cut ends at a correlation of 0.655, above the 0.6 asked for
but no better than a featureless blob: the best centred Gaussian has 0.647 with this kernel. So the test asks for more
than that blob.
"""

import os
from itertools import groupby

import numpy as np
import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig, restore

CASE = os.environ.get('KERNELFUSION_JOINT_CASE', '0802_k00')


def correlation(a, b):
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def central_cut(path, size=64):
    from PIL import Image
    image = torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1).float() / 127.5 - 1
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[:, top:top + size, left:left + size]


def best_blob(truth):
    """Correlation of the truth with the centred Gaussian that is most like it: what no shape at all would score."""
    axis = torch.arange(len(truth)) - (len(truth) - 1) / 2
    square = axis[:, None] ** 2 + axis[None] ** 2
    return max(correlation(torch.exp(-square / (2 * sigma ** 2)), truth) for sigma in torch.arange(0.5, 9, 0.25))


@pytest.mark.slow
def test_consistency_falls_and_the_kernel_appears(shared_data):
    y = central_cut(shared_data / 'div2k' / 'LRx4' / f'{CASE}.png')
    truth = torch.from_numpy(np.load(shared_data / 'kernels' / 'blind144_gt.npy')[int(CASE[-2:])])
    steps = []

    def watch(progress):
        if progress.phase != 'joint':
            return
        steps.append((progress.losses, correlation(progress.kernel.cpu(), truth)))
        if progress.step % 20 == 0:
            losses = ' '.join(f'{name} {value:.2e}' for name, value in progress.losses.items())
            print(f'{progress.step}/{progress.total} {losses} kernel {steps[-1][1]:.3f}', flush=True)

    config = KernelFusionConfig(solver='joint', preset='quick')
    result = restore(y, config, name=CASE, on_progress=watch)

    first, last = steps[0][0], steps[-1][0]
    falls = {name: first[name] / last[name] for name in ('consistency_before', 'consistency_after')}
    rows = [(row['t'], share) for row, (_, share) in
            zip([row for row in result.trace if row['phase'] == 'joint'], steps, strict=True)]
    by_level = [list(group)[-1][1] for _, group in groupby(rows, key=lambda row: row[0])]
    print(f'losses fall by {falls}; kernel correlation at the start {steps[0][1]:.3f}, '
          f'after each t {[round(share, 3) for share in by_level]}; '
          f'best blob {best_blob(truth):.3f}; seconds {result.seconds}')
    assert min(falls.values()) >= 10
    assert by_level[-1] >= 0.6
    assert by_level[-1] > best_blob(truth) + 0.02
    assert by_level[-1] > by_level[0] + 0.02
    assert np.mean(np.diff(by_level) > -0.005) >= 0.8  # it rises over the reverse steps, not at once
