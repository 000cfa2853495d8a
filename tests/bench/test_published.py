"""``kernelfusion published`` on a toy folder of data, and what it makes of several seeds."""

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kernelfusion_plugin.bench.published import degrade, middle, over_seeds
from kernelfusion_plugin.cli import main
from kernelfusion_plugin.core.degradation import synthesise
from kernelfusion_plugin.core.kernels import gaussian

TOY = {'em': {'sketch_passes': 1, 'coarse_passes': 1, 'fine_passes': 1, 'uncertainty': 0, 'steps': 2,
              'kernel_levels': 1, 'final_steps': 2, 'final_prior': 'textures', 'cg_iterations': 2}}


@pytest.fixture
def data(tmp_path):
    """0813 under k_7 with the authors' crop, 0802 under k_5, of noise in blocks."""
    for folder in ('div2k/HR', 'div2k/LRx4', 'kernels', 'official_crops/0813'):
        (tmp_path / folder).mkdir(parents=True)
    kernel = gaussian(24, sigmas=2.0)
    np.save(tmp_path / 'kernels/blind144_gt.npy', np.stack([kernel.numpy()] * 12))
    np.save(tmp_path / 'kernels/official_recovered_0802.npy', np.full((12, 24, 24), 9, np.uint8))
    for number, case in enumerate(('0802_k05', '0813_k07')):
        hr = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        lr = synthesise(torch.from_numpy(hr).permute(2, 0, 1)[None], kernel, 4)
        Image.fromarray(hr).save(tmp_path / f'div2k/HR/{case[:4]}.png')
        Image.fromarray(lr[0].permute(1, 2, 0).numpy()).save(tmp_path / f'div2k/LRx4/{case}.png')
    Image.fromarray(hr[16:80, 24:88]).save(tmp_path / 'official_crops/0813/KernelFusion.png')
    (tmp_path / 'official_crops/crops.json').write_text(
        json.dumps({'0813': {'kernel': 7, 'row': 16, 'col': 24, 'size': [64, 64]}}))
    return tmp_path


def rows(data, *arguments):
    out = data / 'out'
    command = ['published', str(data), '--out', str(out), '--options', json.dumps(TOY), *arguments]
    answer = CliRunner().invoke(main, command, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return [json.loads(line) for line in (out / 'rows.jsonl').read_text().splitlines()]


def test_crops_and_kernels_beside_the_authors(data):
    crop, kernel = rows(data, '--case', '0813_k07', '--case', '0802_k05')
    assert crop['authors'] == float('inf') and 5 < crop['psnr'] < 60 and 5 < crop['psnr_whole'] < 60
    assert 0 < kernel['authors_ncc'] < 1 and 'psnr_whole' not in kernel  # only its kernel is looked for
    assert {path.name for path in (data / 'out').glob('*.png')} == {'0813_k07_0.png', '0802_k05_0.png'}


def test_a_piece_has_no_crop_but_a_picture(data):
    for row in rows(data, '--case', '0813_k07', '--case', '0802_k05', '--piece', '64', '--noise', '1', '--jpeg', '90'):
        assert 'psnr' not in row and 5 < row['psnr_whole'] < 60
        assert (row['piece'], row['noise'], row['jpeg']) == (64, 1, 90)
    assert (data / 'out/0813_k07_0_piece64_noise1_jpeg90.png').is_file()


def test_several_seeds_are_summed_up(data, caplog):
    caplog.set_level('INFO')
    found = rows(data, '--case', '0813_k07', '--piece', '64', '--seed', '0', '--seed', '1')
    assert [row['seed'] for row in found] == [0, 1]
    assert 'largest minus smallest: 0813_k07 ' in caplog.text


def test_pairs_of_seeds_that_differ_are_ranked():
    def row(case, psnr, surprise):
        return {'case': case, 'psnr_whole': psnr, 'kernel_ncc': 0.5, 'surprise': surprise}

    some = [row('a', 20, -1), row('a', 21, -2), row('a', 21.1, -1.5), row('b', 30, -9), row('b', 28, -9.5)]
    said = over_seeds(some)  # a: two pairs differ, both ranked rightly; b: wrongly
    assert 'a 1.100 (psnr_whole), b 2.000 (psnr_whole)' in said and '2 of 3 pairs correctly' in said
    kernels = [{'case': 'c', 'kernel_ncc': ncc, 'surprise': -ncc} for ncc in (0.9, 0.5, 0.89)]
    said = over_seeds([*some, *kernels])  # c, of which only the kernel is looked for: two pairs differ
    assert 'c 0.400 (kernel_ncc)' in said and '4 of 5 pairs' in said
    assert '0 of 0 pairs' in over_seeds([row('a', 20, None), row('a', 25, None)])  # joint has no such score


def test_the_middle_of_y_lies_over_that_of_x():
    x = torch.arange(40 * 48.0).reshape(1, 1, 40, 48)
    y = torch.nn.functional.avg_pool2d(x, 4)
    piece, under = middle(y, x, 6)
    assert piece.shape[-2:] == (6, 6) and torch.equal(torch.nn.functional.avg_pool2d(under, 4), piece)
    assert torch.equal(middle(y, x, 99)[0], y)


def test_noise_and_jpeg_are_of_the_size_asked_for():
    y = torch.zeros(1, 3, 64, 64)
    assert degrade(y, 0, None, 'a') is y
    noisy = degrade(y, 1, None, 'a')
    assert float(noisy.std()) == pytest.approx(0.02, rel=0.05) and torch.equal(noisy, degrade(y, 1, None, 'a'))
    assert not torch.equal(noisy, degrade(y, 1, None, 'b'))
    assert 0 < float((degrade(noisy, 0, 90, 'a') - noisy).abs().mean()) < 0.02


@pytest.mark.parametrize(('arguments', 'said'), [
    (['--case', '0813_k07', '--case', '0813_k99'], '--case 0813_k99: .* has the cases 0802_k05, 0813_k07'),
    (['--case', 'krk_99'], '--case krk_99'), (['--options', 'x'], '--options is not JSON'),
    (['--case', '0813_k07', '--options', '{"em": {"stepz": 3}}'], 'stepz.*steps'),
    (['--case', '0813_k07', '--out', __file__ + '/out'], '--out .* cannot be created or written to')])
def test_faults_are_found_before_the_work(arguments, said, data):
    answer = CliRunner().invoke(main, ['published', str(data), '--out', str(data / 'out'), *arguments])
    assert answer.exit_code == 2 and re.search(said, answer.output), answer.output
    assert not (data / 'out').exists()
