"""Seeds against each other, on toy settings."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kernelfusion_plugin.bench import seeds
from kernelfusion_plugin.cli import main
from kernelfusion_plugin.core.config import PRESETS
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.kernels import gaussian, motion


def row(case, psnr, surprise):
    return {'case': case, 'psnr': psnr, 'surprise': surprise}


ROWS = [row('a', 20, -1.0), row('a', 21, -2.0), row('a', 21.1, -1.5), row('b', 30, -9.0), row('b', 28, -9.5)]


def test_clear_pairs_of_one_case_are_ranked():
    assert seeds.ranked(ROWS, 'psnr', 0.3) == (2, 3)  # a: 21 and 21.1 differ too little; b: wrong
    assert seeds.ranked(ROWS, 'psnr', 0.05) == (2, 4) and seeds.ranked(ROWS, 'psnr', 1.5) == (0, 1)
    assert seeds.ranked([row('a', 20, None), row('a', 25, None)], 'psnr', 0.3) == (0, 0)


def test_the_summary_says_what_choosing_is_worth():
    assert seeds.summary(ROWS, 'psnr') == {'spread': 2, 'right': 2, 'pairs': 3, 'mean': 24.02, 'mean_of_chosen': 24.5}


def test_the_measure_runs(monkeypatch):
    em = EmConfig(sketch_passes=1, coarse_passes=1, fine_passes=1, uncertainty=0, steps=2, kernel_levels=1,
                  final_steps=2, final_prior='textures', cg_iterations=2)
    monkeypatch.setitem(PRESETS, 'quick', {**PRESETS['quick'], 'em': em})
    monkeypatch.setattr(seeds, 'SIDE', 24)
    pytest.importorskip('skimage')
    kept = []
    found = seeds.measure('quick', torch.device('cpu'), seeds.photographs(['coffee'], [1]), [0, 1],
                          lambda so_far: kept.append(len(so_far['rows'])))
    assert kept == [1, 2]
    assert [(one['case'], one['seed']) for one in found['rows']] == [('coffee, motion 1', 0), ('coffee, motion 1', 1)]
    assert all(one['psnr_best_subpixel_shift'] >= one['psnr'] > 5 for one in found['rows'])
    assert all(one['surprise'] is not None for one in found['rows'])
    assert found['rows'][0]['surprise'] != found['rows'][1]['surprise']


def test_own_pictures_meet_all_own_kernels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 96, 3), dtype=np.uint8)
    (tmp_path / 'hr').mkdir()
    for name in ('a', 'b'):
        Image.fromarray(pixels).save(tmp_path / 'hr' / f'{name}.png')
    one, other = gaussian(24, sigmas=3.0), motion(24, 3)
    np.save(tmp_path / 'one.npy', one.numpy())
    np.save(tmp_path / 'other.npy', other.numpy())
    cases = seeds.own(tmp_path / 'hr', (tmp_path / 'one.npy', tmp_path / 'other.npy'))
    assert [(case.picture_name, case.kernel_name) for case in cases] == [
        ('a', 'one'), ('a', 'other'), ('b', 'one'), ('b', 'other')]
    assert all((case.picture == pixels).all() for case in cases)
    torch.testing.assert_close(cases[1].kernel.float(), other.float())
    Image.fromarray(255 - pixels).save(tmp_path / 'hr' / 'a.jpg')  # another picture of that name
    cases = seeds.own(tmp_path / 'hr', (tmp_path / 'one.npy',))
    assert [case.picture_name for case in cases] == ['a_jpg', 'a_png', 'b']
    Image.fromarray(pixels[:80]).save(tmp_path / 'hr' / 'small.png')
    with pytest.raises(ValueError, match=r'small.png: 96 x 80 pixels are too few for the kernel one'):
        seeds.own(tmp_path / 'hr', (tmp_path / 'one.npy',))
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='no pictures'):
        seeds.own(tmp_path / 'none', (tmp_path / 'one.npy',))


@pytest.mark.parametrize(('arguments', 'said'), [
    (['seeds', '--hr', '.'], '--hr and --kernels must be given together'),
    (['work', '--hr', '.', '--kernels', '.'], 'for the part seeds'), (['seed'], "no part 'seed'")])
def test_options_of_the_command(arguments, said):
    answer = CliRunner().invoke(main, ['benchmark', *arguments])
    assert answer.exit_code == 2 and said in answer.output
