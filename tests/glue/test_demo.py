"""The demo: its pictures are what the forward model makes, and the whole of it runs (at toy size here)."""

import numpy as np
import pytest
import torch
from PIL import Image
from starting import ROOT, python

from kernelfusion_plugin import demo
from kernelfusion_plugin.core.degradation import Degradation
from kernelfusion_plugin.core.kernels import motion


@pytest.mark.parametrize(('height', 'width', 'lr_size'), [(100, 121, (19, 24)), (100, 400, (19, 32))])
def test_pictures_fit_each_other_and_meet_no_made_up_border(height, width, lr_size):
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    kernel = motion(24, 3)
    hr, lr = demo.degrade(photo, kernel, max_lr=32)
    assert lr.shape[:2] == lr_size and hr.shape == (4 * lr_size[0], 4 * lr_size[1], 3)
    top, left = (next((y, x) for y in range(0, height, 4) for x in range(0, width, 4)
                      if np.array_equal(photo[y:y + hr.shape[0], x:x + hr.shape[1]], hr)))
    wide = photo[top - 10:top + hr.shape[0] + 10, left - 10:left + hr.shape[1] + 10]
    y = Degradation(4, 24).forward(torch.from_numpy(wide).permute(2, 0, 1)[None].float(), kernel)
    assert np.abs(y[0].permute(1, 2, 0).numpy() - lr).max() <= 0.501


@pytest.mark.parametrize('asked', ['-h', '--help'])
def test_help_is_printed_and_nothing_else_is_done(asked, tmp_path):
    ran = python('-m', 'kernelfusion_plugin.demo', asked, cwd=tmp_path, path=[ROOT])
    assert ran.returncode == 0 and not ran.stderr and not list(tmp_path.iterdir())
    assert ran.stdout == demo.__doc__ and '--force_yml' in ran.stdout


def test_demo_runs_and_shows_what_it_measured(tmp_path):
    pytest.importorskip('skimage.data')
    toy = ['kernelfusion:tuning:steps=1', 'kernelfusion:tuning:crop=16', 'kernelfusion:em:sketch_passes=1',
           'kernelfusion:em:coarse_passes=1', 'kernelfusion:em:fine_passes=1', 'kernelfusion:em:steps=1',
           'kernelfusion:em:kernel_side=32', 'kernelfusion:em:final_samples=1',
           'kernelfusion:em:final_steps=1', 'kernelfusion:em:cg_iterations=1']
    ran = python('-m', 'kernelfusion_plugin.demo', '--force_yml', *toy, cwd=tmp_path, path=[ROOT])
    assert ran.returncode == 0, ran.stderr
    results = tmp_path / 'results' / 'kernelfusion_demo'
    row = dict(zip(*(line.split(',') for line in (results / 'scores.csv').read_text().splitlines()), strict=True))
    assert f'PSNR  {float(row["psnr"]):.2f} dB' in ran.stdout and f'{float(row["kernel_ncc"]):.3f}' in ran.stdout
    for line in ran.stdout.splitlines():
        if line.startswith('results/'):
            assert (tmp_path / line.split('   ')[0]).is_file()
    assert sum(line.startswith('results/') for line in ran.stdout.splitlines()) == 5
    assert Image.open(tmp_path / 'demo' / 'lr' / f'{demo.PHOTO}.png').size[0] <= demo.MAX_LR
