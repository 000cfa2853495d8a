"""12 Mpx within 8 GB: of a card's memory, and of the processor's with the command as it is called."""

import os
import sys

import pytest
import torch
from PIL import Image

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.bench.speed import photograph
from kernelfusion_plugin.core.degradation import synthesise
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.kernels import motion
from kernelfusion_plugin.core.restore import plan_memory

SIDE = 866  # to 3464 x 3464
BRIEF = {'em.sketch_passes': 1, 'em.coarse_passes': 1, 'em.fine_passes': 1, 'em.final_steps': 2, 'tuning.steps': 2}


def large_picture():
    tiled = photograph().repeat(1, 1, 7, 7)[..., :4 * SIDE, :4 * SIDE]
    return synthesise(tiled, motion(24, 5), 4, 'reflect')


@pytest.mark.slow
def test_12_mpx_within_8_gb_of_the_processors(tmp_path):
    Image.fromarray(large_picture()[0].permute(1, 2, 0).numpy()).save(tmp_path / 'large.png')
    options = [part for key, value in BRIEF.items() for part in ('--set', f'{key}={value}')]
    command = [sys.executable, '-m', 'kernelfusion_plugin', 'restore', str(tmp_path / 'large.png')]
    command += ['-o', str(tmp_path / 'out'), '--device', 'cpu', *options]
    _, status, used = os.wait4(os.spawnv(os.P_NOWAIT, sys.executable, command), 0)
    print(f'{used.ru_maxrss * 1024 / 1e9:.2f} GB, {used.ru_utime:.0f} s')
    assert status == 0 and Image.open(tmp_path / 'out/large_x4.png').size == (4 * SIDE, 4 * SIDE)
    planned = plan_memory((SIDE, SIDE), torch.device('cpu'), KernelFusionConfig(preset='quick'))
    assert used.ru_maxrss * 1024 < planned.need < 8e9


@pytest.mark.gpu
@pytest.mark.parametrize('limit', [None, 3.2])
def test_12_mpx_within_8_gb_of_a_cards(limit):
    y = (large_picture().float() / 127.5 - 1).cuda()
    few = EmConfig(sketch_passes=1, coarse_passes=1, fine_passes=1, final_steps=2)
    config = KernelFusionConfig(preset='quick', em=few, memory_limit=limit)
    torch.cuda.reset_peak_memory_stats()
    restore(y, config)
    peak = torch.cuda.max_memory_reserved()
    print(f'{peak / 1e9:.2f} GB')
    assert peak < min(8e9, plan_memory((SIDE, SIDE), y.device, config).need)
