"""The baselines through the real toolbox: same files, same scores, same failures as our model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from glue_helpers import run_toolbox, scores, toy_options, write_pair
from PIL import Image

from kernelfusion_plugin import runlog
from kernelfusion_plugin.core.degradation import upscale_bicubic
from kernelfusion_plugin.core.metrics import psnr_y
from kernelfusion_plugin.models.baselines import Baseline
from kernelfusion_plugin.models.options import FileOptions
from kernelfusion_plugin.models.validation import ImageByImage
from kernelfusion_plugin.report import to_picture, to_tensor


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_pair(root, 'one', 1, (32, 32))
    write_pair(root, 'two', 2, (34, 40))
    return root


def baseline(root, kind, **changes):
    opt = toy_options(root, model_type=kind, **changes)
    for section in ('kernelfusion', 'network_g'):
        del opt[section]
    return opt


def test_bicubic_is_the_column_of_every_other_model(data, tmp_path, monkeypatch):
    assert run_toolbox(baseline(data, 'BicubicModel'), tmp_path, monkeypatch) == 0
    for row in scores(tmp_path):
        assert row['psnr'] == row['psnr_bicubic'] and row['ssim'] == row['ssim_bicubic']
        assert row['solver'] == 'bicubic' and row['kernel_ncc'] == row['preset'] == ''
        y = to_tensor(np.array(Image.open(data / f'lr/{row["image"]}.png'))).float()
        expected = to_picture(upscale_bicubic(y, 4))
        folder = tmp_path / 'results/toy/visualization/Toy'
        saved = np.array(Image.open(folder / f'{row["image"]}_toy.png')).astype(int)
        assert np.abs(saved - expected).max() <= 1 and (saved != expected).mean() < 1e-3  # ties, in [0, 1] and [-1, 1]
        truth = to_tensor(np.array(Image.open(data / f'hr/{row["image"]}.png')))
        assert float(row['psnr']) == pytest.approx(psnr_y(to_tensor(expected), truth), abs=1e-3)
        assert (folder / f'{row["image"]}_sheet.png').exists() and not list(folder.glob('*_kernel.*'))


class Nearest(Baseline):
    """As a user would write it."""

    def upscale(self, y):
        return y.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2), None


class NoPair(Nearest):
    def upscale(self, y):
        return super().upscale(y)[0]


class NotFinite(Nearest):
    def upscale(self, y):
        return super().upscale(y)[0] * float('nan'), None


def test_a_baseline_of_ones_own(data, tmp_path, monkeypatch):
    """It is called by its class, unless it says otherwise, and told what ``upscale`` has to give."""
    for kind in (Nearest, NoPair, NotFinite):
        monkeypatch.setitem(MODEL_REGISTRY._obj_map, kind.__name__, kind)
    assert run_toolbox(baseline(data, 'Nearest'), tmp_path / 'a', monkeypatch) == 0
    assert {row['solver'] for row in scores(tmp_path / 'a')} == {'Nearest'}
    assert run_toolbox(baseline(data, 'NoPair'), tmp_path / 'b', monkeypatch) == 1
    assert all('NoPair.upscale must return a picture and a kernel (or None), but returns Tensor' in line
               for line in runlog.failures)
    assert run_toolbox(baseline(data, 'NotFinite'), tmp_path / 'c', monkeypatch) == 1
    assert all('NotFinite made a picture with values that are not finite' in line for line in runlog.failures)


def test_back_projection_beats_bicubic_and_keeps_to_y(data, tmp_path, monkeypatch):
    opt = baseline(data, 'BackProjectionModel', val__metrics={'psnr': {'type': 'calculate_psnr_border'}})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    for row in scores(tmp_path):
        assert float(row['psnr']) > float(row['psnr_bicubic']) + 0.5 and row['val_psnr'] == row['psnr']
        assert float(row['kernel_ncc']) == 1 and row['kernel_lr_psnr'] == 'inf'
        assert float(row['lr_consistency']) > 35
        assert float(row['psnr_best_subpixel_shift']) >= float(row['psnr_best_shift']) >= float(row['psnr'])
    summary = json.loads((tmp_path / 'results/toy/summary.json').read_text())
    assert summary['config'] == {'scale': 4, 'kernel_dir': None, 'kernel_tmpl': '{name}', 'crop_gt': False,
                                 'sheet': True, 'known_kernel': True, 'ridge': 1e-4, 'iterations': 100}


def test_a_missing_kernel_costs_its_image(data, tmp_path, monkeypatch):
    opt = baseline(data, 'BackProjectionModel', baseline={'kernel_dir': str(tmp_path / 'kernels'), 'sheet': False})
    del opt['datasets']['test_1']['dataroot_kernel']
    (tmp_path / 'kernels').mkdir()
    np.save(tmp_path / 'kernels/two.npy', np.load(data / 'kernels/two.npy'))
    assert run_toolbox(opt, tmp_path, monkeypatch) == 1
    assert [row['image'] for row in scores(tmp_path)] == ['two']
    assert 'one.png' in runlog.failures[0] and 'no kernel' in runlog.failures[0]


def test_kernels_that_a_data_set_gives_along(data, tmp_path, monkeypatch):
    """RandomBlurDataset's; the file named in the section has no say then."""
    opt = baseline(data, 'BackProjectionModel', baseline={'kernel_dir': str(data / 'kernels/two.npy'), 'sheet': False})
    opt['datasets']['test_1'] = {'name': 'Toy', 'type': 'RandomBlurDataset', 'dataroot_gt': str(data / 'hr'),
                                 'io_backend': {'type': 'disk'},
                                 'kernels': [{'type': 'isotropic', 'sigma': [2, 3], 'size': 13}]}
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    for row in scores(tmp_path):
        assert float(row['psnr']) > float(row['psnr_bicubic']) + 0.3 and float(row['kernel_ncc']) == 1
        kernel = np.load(tmp_path / f'results/toy/visualization/Toy/{row["image"]}_kernel.npy')
        assert kernel.shape == (13, 13)


@pytest.mark.parametrize(('given', 'taken'), [
    (torch.full((1, 3, 3), 1 / 9), True), (torch.full((1, 3, 3), 1.0), False), (torch.full((1, 9), 1 / 9), False),
    (torch.full((1, 1, 3, 3), 1 / 9), False), (torch.full((1, 3, 4), 1 / 12), False), (['k.mat'], False),
    (None, False)])
def test_what_a_data_set_calls_kernel_may_be_something_else(given, taken):
    entry = SimpleNamespace(name='a', kernel_name='a', dataset=SimpleNamespace(opt={}))
    model = ImageByImage()
    model.files = FileOptions()
    found = model.true_kernel(entry, {'kernel': given})
    assert torch.equal(found, given[0]) if taken else found is None


def test_a_place_of_known_kernels_that_is_not_there_is_refused_at_the_start(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="baseline.known_kernel must be true, .* 'yes' does not exist"):
        run_toolbox(baseline(data, 'BackProjectionModel', baseline={'known_kernel': 'yes'}), tmp_path, monkeypatch)


def test_two_data_sets_of_one_name_are_refused(data, tmp_path, monkeypatch):
    opt = baseline(data, 'BicubicModel')
    opt['datasets']['test_2'] = dict(opt['datasets']['test_1'])
    with pytest.raises(ValueError, match="datasets: test_1 and test_2 are both named 'Toy'"):
        run_toolbox(opt, tmp_path, monkeypatch)


def test_the_mean_of_all_data_sets_is_over_their_images(data, tmp_path, monkeypatch, log):
    """Of three images in two data sets, and one that cannot be read; a run of one data set has no such mean."""
    other = tmp_path / 'other'
    for seed, name in enumerate(('three', 'bad')):
        write_pair(other, name, seed + 5, (32, 32))
    (other / 'lr/bad.png').write_bytes(b'')
    opt = baseline(data, 'BicubicModel')
    assert run_toolbox(opt, tmp_path / 'one', monkeypatch) == 0 and 'all data sets' not in log.text
    assert 'all' not in json.loads((tmp_path / 'one/results/toy/summary.json').read_text())
    opt['datasets']['test_2'] = {**baseline(other, 'BicubicModel')['datasets']['test_1'], 'name': 'Other'}
    assert run_toolbox(opt, tmp_path, monkeypatch) == 1
    rows, summary = scores(tmp_path), json.loads((tmp_path / 'results/toy/summary.json').read_text())
    assert len(rows) == 3 and summary['datasets'].keys() == {'Toy', 'Other'}
    assert (summary['all']['images'], summary['all']['failed']) == (3, ['Other/bad'])
    mean = sum(float(row['psnr']) for row in rows) / 3
    assert summary['all']['mean']['psnr'] == pytest.approx(mean, abs=1e-5)
    assert log.text.count(f'all data sets: mean of 3 images: PSNR {mean:.2f} dB') == 1
    assert log.text.index('all data sets') > log.text.index('Other: mean of 1 image')


def test_identical_images_do_not_poison_the_mean(data, tmp_path, monkeypatch):
    write_pair(tmp_path / 'mixed', 'one', 1, (32, 32))
    for role, size in (('hr', 128), ('lr', 32)):
        Image.fromarray(np.full((size, size, 3), 77, np.uint8)).save(tmp_path / f'mixed/{role}/flat.png')
    opt = baseline(tmp_path / 'mixed', 'BicubicModel', val__metrics={'psnr': {'type': 'calculate_psnr_border'},
                                                                     'plain': {'type': 'calculate_psnr',
                                                                               'crop_border': 4}})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    flat, one = scores(tmp_path)
    assert flat['psnr'] == flat['val_psnr'] == flat['val_plain'] == flat['psnr_best_shift'] == 'inf'
    mean = json.loads((tmp_path / 'results/toy/summary.json').read_text())['datasets']['Toy']['mean']
    for name in ('psnr', 'val_psnr', 'val_plain', 'psnr_best_shift'):
        assert mean[name] == pytest.approx(float(one[name]), abs=1e-5)


@pytest.mark.parametrize(('kind', 'section', 'message'), [
    ('BicubicModel', {'sheets': True}, "did you mean 'sheet'"),
    ('BicubicModel', {'known_kernel': True}, "unknown option 'baseline.known_kernel'"),
    ('BackProjectionModel', {'known_kernel': False}, 'needs the kernel'),
    ('BackProjectionModel', {'ridge': 0.0}, 'baseline.ridge'),
    ('BackProjectionModel', {'iterations': True}, 'baseline.iterations must be a whole number'),
    ('BackProjectionModel', {'iterations': 1.5}, 'baseline.iterations must be a whole number')])
def test_wrong_options_are_refused(data, tmp_path, kind, section, message):
    from kernelfusion_plugin import models
    opt = {**baseline(data, kind, baseline=section), 'dist': False, 'rank': 0, 'world_size': 1, 'is_train': False}
    opt['path'].update(results_root=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        getattr(models, kind)(opt)


def test_grey_and_scale_3(tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1, (32, 30), scale=3, kernel_size=18)
    opt = baseline(tmp_path, 'BackProjectionModel', scale=3, datasets__test_1__color='y')
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    row, = scores(tmp_path)
    assert float(row['psnr']) > float(row['psnr_bicubic'])
    assert Image.open(tmp_path / 'results/toy/visualization/Toy/one_toy.png').mode == 'L'
    assert torch.from_numpy(np.load(tmp_path / 'results/toy/visualization/Toy/one_kernel.npy')).shape == (18, 18)
