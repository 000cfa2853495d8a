"""The baselines through the real toolbox, at toy size: pictures of any kind, weights of any kind, training, faults."""

import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from click.testing import CliRunner
from glue_helpers import _ORIGINAL, run_toolbox, scores, texture, write_pair
from PIL import Image

from kernelfusion_plugin import compat, runlog
from kernelfusion_plugin import options as option_reader
from kernelfusion_plugin.archs.baseline_arch import DAN, DANv2
from kernelfusion_plugin.cli import main
from kernelfusion_plugin.core.kernel_pca import load_pca
from kernelfusion_plugin.models import BlindSRModel

SMALL = {
    'DAN': {'type': 'DAN', 'nf': 16, 'nb': 1, 'input_para': 4, 'kernel_size': 11, 'loop': 2},
    'DANv2': {'type': 'DANv2', 'nf': 8, 'nb': 1, 'ng': 1, 'input_para': 4, 'kernel_size': 11, 'loop': 2},
    'DCLS': {'type': 'DCLS', 'nf': 16, 'nb': 1, 'ng': 1, 'input_para': 8, 'kernel_size': 11},
    'SwinIR': {'type': 'SwinIR', 'img_size': 8, 'window_size': 8, 'img_range': 1.0, 'depths': [2], 'embed_dim': 8,
               'num_heads': [2], 'mlp_ratio': 2, 'upsampler': 'pixelshuffle', 'resi_connection': '1conv'},
    'RRDBNet': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4},
}
KERNELS = [{'type': 'isotropic', 'size': 11, 'sigma': [0.5, 2.5]}]


@pytest.fixture
def data(tmp_path):
    write_pair(tmp_path, 'colour', 1, (17, 22), kernel_size=11)
    write_pair(tmp_path, 'grey', 2, (13, 9), kernel_size=11)
    for folder in ('lr', 'hr'):
        path = tmp_path / folder / 'grey.png'
        Image.open(path).convert('L').save(path)
    write_pair(tmp_path, 'tiny', 3, (3, 5), kernel_size=11)
    torch.save(torch.randn(121, 4, generator=torch.Generator().manual_seed(0)), tmp_path / 'pca.pth')
    return tmp_path


def toy(data, kind, truth=True, scale=4, **changes):
    network = {**SMALL[kind], **({'pca_matrix_path': str(data / 'pca.pth')} if kind.startswith('DAN') else {})}
    sets = {'dataroot_lq': str(data / 'lr'), 'io_backend': {'type': 'disk'}, 'type': 'SingleImageDataset'}
    if truth:
        sets |= {'type': 'PairedImageDataset', 'dataroot_gt': str(data / 'hr'),
                 'dataroot_kernel': str(data / 'kernels')}
    opt = {'name': 'toy', 'model_type': 'BlindSRModel', 'scale': scale, 'num_gpu': 0, 'manual_seed': 0,
           'datasets': {'test_1': {'name': 'Toy', **sets}}, 'network_g': network, 'path': {}, 'val': {}}
    opt.update(changes)
    return opt


def train_toy(data, kind, **changes):
    def pairs(name, folder):
        return {'name': name, 'type': 'RandomBlurDataset', 'dataroot_gt': str(data / folder), 'kernels': KERNELS,
                'io_backend': {'type': 'disk'}, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 4}
    opt = toy(data, kind)
    opt['datasets'] = {'train': {**pairs('Train', 'big'), 'gt_size': 48}, 'val_1': pairs('Val', 'big')}
    opt['train'] = {'ema_decay': 0.9, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'total_iter': 3,
                    'scheduler': {'type': 'MultiStepLR', 'milestones': [2]},
                    'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0}}
    opt['val'] = {'val_freq': 2, 'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr_border'}}}
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 100, 'use_tb_logger': False}
    opt.update(changes)
    (data / 'big').mkdir(exist_ok=True)
    Image.fromarray(texture(64, 72, 4)).save(data / 'big/one.png')
    return opt


def run_training(opt, folder, monkeypatch, *arguments):
    import basicsr.train
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'train.yml').write_text(json.dumps(opt))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'train.yml', *arguments])
    original = getattr(basicsr.train.parse_options, '__wrapped__', _ORIGINAL)
    monkeypatch.setattr(basicsr.train, 'parse_options',
                        lambda root, is_train: option_reader.parse_options(original, root, is_train))
    monkeypatch.setattr(option_reader, '_every_run', True)
    runlog.failures.clear()
    compat.register()
    basicsr.train.train_pipeline(os.getcwd())


@pytest.mark.parametrize('kind', SMALL)
def test_grey_odd_and_tiny_pictures_with_truth(kind, data, tmp_path, monkeypatch):
    assert run_toolbox(toy(data, kind), tmp_path / 'run', monkeypatch) == 0, runlog.failures
    rows = {row['image']: row for row in scores(tmp_path / 'run')}
    assert set(rows) == {'colour', 'grey', 'tiny'}
    folder = tmp_path / 'run/results/toy/visualization/Toy'
    estimate = {'DAN': 'kernel', 'DANv2': 'kernel', 'DCLS': 'lr_kernel'}.get(kind)
    for name, size in (('colour', (88, 68)), ('grey', (36, 52)), ('tiny', (20, 12))):
        assert Image.open(folder / f'{name}_toy.png').size == size
        files = {'toy.png', 'sheet.png', *([f'{estimate}.npy', f'{estimate}.png'] if estimate else [])}
        assert {path.name for path in folder.glob(f'{name}_*')} == {f'{name}_{what}' for what in files}
        if estimate:
            kernel = np.load(folder / f'{name}_{estimate}.npy')
            assert kernel.shape == (11, 11) and kernel.dtype == np.float32 and abs(kernel.sum() - 1) < 1e-5
        assert bool(rows[name]['kernel_ncc']) == (estimate == 'kernel')
        assert rows[name]['psnr'] and rows[name]['psnr_bicubic'] and rows[name]['seconds_phase2']
        assert (rows[name]['solver'], rows[name]['preset']) == (kind, 'random weights')
    summary = json.loads((tmp_path / 'run/results/toy/summary.json').read_text())
    assert summary['network'] == kind and summary['datasets']['Toy']['images'] == 3


@pytest.mark.parametrize(('kind', 'scale'), [('DAN', 2), ('DAN', 3), ('DCLS', 2), ('DCLS', 3), ('RRDBNet', 2),
                                             ('SwinIR', 2), ('SwinIR', 3)])
def test_other_scales_without_truth(kind, scale, data, tmp_path, monkeypatch):
    assert run_toolbox(toy(data, kind, truth=False, scale=scale), tmp_path / 'run', monkeypatch) == 0, runlog.failures
    picture = Image.open(tmp_path / 'run/results/toy/visualization/Toy/colour_toy.png')
    assert picture.size == (22 * scale, 17 * scale)
    assert all(row['psnr'] == row['kernel_ncc'] == '' for row in scores(tmp_path / 'run'))


def test_in_training_each_validation_has_its_mean_of_all_data_sets(data, tmp_path, monkeypatch, log):
    opt = train_toy(data, 'RRDBNet')
    opt['datasets']['val_2'] = {**opt['datasets']['val_1'], 'name': 'Second'}
    opt['train']['total_iter'] = 4
    run_training(opt, tmp_path / 'run', monkeypatch)
    lines = [message.partition(':')[0] for message in log.messages if ': mean of ' in message]
    assert lines == ['Val', 'Second', 'all data sets'] * 3  # the last is that at the end
    values = [float(value) for value in re.findall(r'# psnr: (\S+)\tBest: \S+ @ \d+ iter', log.text)]
    best = [float(value) for value in re.findall(r'# psnr: \S+\tBest: (\S+) @ \d+ iter', log.text)]
    assert len(values) == 6 and best == [max(values[i % 2:i + 1:2]) for i in range(6)]  # of each data set
    assert 'all data sets: mean of 2 images' in log.text
    pictures = [path.parent.name for path in (tmp_path / 'run/experiments').rglob('one_4.png')]
    assert sorted(pictures) == ['Second', 'Val']  # of the same name, in a folder each


def model(data, kind, **changes):
    compat.register()
    opt = toy(data, kind, **changes)
    opt.update(dist=False, rank=0, world_size=1, is_train=False)
    opt['path'].update(results_root=str(data / 'out'), visualization=str(data / 'out'))
    torch.manual_seed(0)
    return BlindSRModel(opt)


def fed(one, y):
    one.feed_data({'lq': y})
    one.test()
    return one.get_current_visuals()


def test_tiles_give_what_one_piece_gives(data):
    y = torch.rand(1, 3, 90, 71, generator=torch.Generator().manual_seed(0))

    def result(tile, overlap):
        one = model(data, 'RRDBNet', blind_sr={'tile': tile, 'overlap': overlap})
        with torch.no_grad():  # into the middle of the range, where nothing is clamped
            one.net_g.conv_last.weight.mul_(3)
            one.net_g.conv_last.bias.fill_(0.5)
        return fed(one, y)['result']

    whole = result(0, 32)
    assert 0.01 < float(whole.std()) and 0 < float(whole.min()) < float(whole.max()) < 1
    torch.testing.assert_close(result(32, 24), whole, atol=1e-5, rtol=0)
    assert float((result(32, 0) - whole).abs().max()) > 1e-3  # or the overlap would be for nothing


def test_kernel_of_tiles_is_their_mean_by_area(data):
    one = model(data, 'DANv2', blind_sr={'tile': 32, 'overlap': 0})
    y = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    kernel = fed(one, y)['kernel']
    parts = [fed(one, piece)['kernel'] for piece in (y[..., :32], y[..., 32:])]
    torch.testing.assert_close(kernel, (2 * parts[0] + parts[1]) / 3)


@pytest.mark.parametrize('error', [torch.cuda.OutOfMemoryError('too large'), RuntimeError("can't allocate memory")])
def test_tiles_grow_smaller_where_memory_is_short(data, monkeypatch, error):
    one, tried = model(data, 'DANv2'), []
    forward = one.net_g.forward

    def short(y):
        tried.append(y.shape[-1])
        if y.shape[-1] > 140:
            raise error
        return forward(y)

    monkeypatch.setattr(one.net_g, 'forward', short)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    visuals = fed(one, torch.rand(1, 3, 20, 150))
    assert tried[0] == 150 and max(tried[1:]) == 107 and visuals['result'].shape == (1, 3, 80, 600)
    assert float(visuals['kernel'].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('kind', SMALL)
def test_a_batch_is_its_pictures(kind, data):
    one = model(data, kind)
    y = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    both, second = fed(one, y), fed(one, y[1:])
    for name in both:
        torch.testing.assert_close(both[name][1:], second[name], atol=1e-5, rtol=1e-4)


def test_a_network_of_another_scale_is_noticed(data):
    with pytest.raises(ValueError, match='scale is 3, but the network made 48 x 32 of 12 x 8'):
        fed(model(data, 'RRDBNet', scale=3), torch.rand(1, 3, 8, 12))  # RRDBNet takes 3 for 4


@pytest.mark.parametrize('kind', SMALL)
def test_one_channel_comes_back_as_one(kind, data):
    one = model(data, kind)
    y = torch.rand(1, 1, 11, 13, generator=torch.Generator().manual_seed(0))
    grey, colour = fed(one, y)['result'], fed(one, y.expand(-1, 3, -1, -1))['result']
    assert grey.shape == (1, 1, 44, 52)
    torch.testing.assert_close(grey, colour.mean(1, keepdim=True))


def test_dcls_kernel_is_saved_as_it_correlates(data):
    one = model(data, 'DCLS')
    y = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        for layer in one.net_g.Estimator.dec:
            layer.weight.normal_()
        convolving = one.net_g(y)[1]
    torch.testing.assert_close(fed(one, y)['kernel'][0], convolving[0, 0].flip(0, 1))


# --- weights


@pytest.mark.parametrize('form', ['bare', 'module', 'params', 'params_ema'])
def test_weights_in_every_form(form, data):
    net = model(data, 'DANv2').net_g
    state = {name: value + 0.125 for name, value in net.state_dict().items()}
    content = {'bare': state, 'module': {f'module.{name}': value for name, value in state.items()},
               'params': {'params': state}, 'params_ema': {'params': net.state_dict(), 'params_ema': state}}[form]
    torch.save(content, data / 'w.pth')
    options = {'path': {'pretrain_network_g': str(data / 'w.pth')},
               'network_g': {**SMALL['DANv2']}}  # the PCA matrix is in the weights
    loaded = model(data, 'DANv2', **options).net_g.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    if form == 'params_ema':
        options['path']['param_key_g'] = 'params'
        assert not torch.equal(model(data, 'DANv2', **options).net_g.state_dict()['encoder'], state['encoder'])


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ('exploded',))


FAULTS = {
    'another size': ({name: torch.zeros(3) for name in DANv2(**{key: SMALL['DANv2'][key] for key in SMALL['DANv2']
                                                                if key != 'type'}).state_dict()},
                     r'w\.pth does not fit network_g \(DANv2\): .* is 3, not '),
    'another network': ({'conv.weight': torch.zeros(1)}, r'does not fit .*: \d+ missing \(.*\); 1 unexpected \(conv'),
    'a picture': (b'\x89PNG', 'not a file of weights'),
    'empty': (b'', 'not a file of weights'),
    'a list': ([1, 2], 'not a file of weights'),
    'code': (Bomb(), 'not a file of weights'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_weights_are_one_line(fault, data, monkeypatch):
    monkeypatch.chdir(data)
    content, message = FAULTS[fault]
    if isinstance(content, bytes):
        (data / 'w.pth').write_bytes(content)
    else:
        torch.save(content, data / 'w.pth')
    with pytest.raises(ValueError, match=message) as error:
        model(data, 'DANv2', path={'pretrain_network_g': 'w.pth'})
    assert '\n' not in str(error.value) and len(str(error.value)) < 500 and not (data / 'exploded').exists()


@pytest.mark.parametrize(('file', 'parts'), [
    ('pre/DCLSx4_setting1.pth', ('download DCLSx4_setting1.pth from https://', 'licence: MIT')),
    ('pre/mine.pth', ('there is no file pre/mine.pth',)),
])
def test_missing_weights_say_where_to_get_them(file, parts, data):
    with pytest.raises(ValueError) as error:
        model(data, 'DCLS', path={'pretrain_network_g': file})
    assert file in str(error.value) and all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'network_g': SMALL['DAN']}, 'DAN needs a PCA matrix'),
    ({'network_g': {**SMALL['DAN'], 'pca_matrix_path': 'no.pth'}}, 'no.pth: no such PCA matrix; "kernelfusion pca'),
    ({'network_g': {**SMALL['DAN'], 'lop': 2}}, "unknown option 'network_g.lop' of DAN: did you mean 'loop'"),
    ({'network_g': {'type': 'DNA'}}, "unknown network 'DNA' in 'network_g': did you mean 'DAN'"),
    ({'network_g': {**SMALL['DAN'], 'upscale': 2}}, "'network_g.upscale' is 2, but 'scale' is 4"),
    ({'network_g': {**SMALL['DAN'], 'nf': 'many'}}, r"'network_g' \(DAN\)"),
    ({'blind_sr': {'tiles': 3}}, "'blind_sr.tiles': did you mean 'tile'"),
    ({'blind_sr': {'tile': -1}}, 'blind_sr.tile must be a whole number'),
    ({'scale': None}, "needs 'scale: 4'"),
])
def test_bad_options(changes, message, data):
    with pytest.raises(ValueError, match=message):
        model(data, 'DAN', **changes)


def test_a_bad_picture_costs_itself_alone(data, tmp_path, monkeypatch):
    (data / 'lr/colour.png').write_bytes(b'')
    assert run_toolbox(toy(data, 'DANv2'), tmp_path / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(tmp_path / 'run')] == ['grey', 'tiny']
    assert len(runlog.failures) == 1 and 'colour.png: the file is empty' in runlog.failures[0]


# --- training


@pytest.mark.parametrize('kind', SMALL)
def test_training_writes_weights_that_testing_takes(kind, data, tmp_path, monkeypatch, log):
    opt = train_toy(data, kind)
    opt['datasets']['train']['gt_size'] = 64  # 16 in LR: two of SwinIR's windows
    run_training(opt, tmp_path / 'train', monkeypatch)
    experiment = tmp_path / 'train/experiments/toy'
    content = torch.load(experiment / 'models/net_g_latest.pth', weights_only=True)
    assert set(content) == {'params', 'params_ema'}
    assert ('l_kernel' in log.text) == (kind in ('DAN', 'DANv2', 'DCLS')) and 'l_pix' in log.text
    assert len(re.findall('Validation Val', log.text)) == 2  # at step 2 and at the end
    assert (experiment / 'visualization/Val/one_2.png').is_file()
    opt = toy(data, kind, path={'pretrain_network_g': str(experiment / 'models/net_g_latest.pth')},
              network_g=SMALL[kind])
    assert run_toolbox(opt, tmp_path / 'test', monkeypatch) == 0
    assert {row['preset'] for row in scores(tmp_path / 'test')} == {'net_g_latest'}


@pytest.mark.parametrize(('kind', 'changes', 'message'), [
    ('DCLS', {'type': 'PairedImageDataset', 'dataroot_lq': 'lr'}, 'DCLS learns kernels too'),
    ('SwinIR', {'gt_size': 48}, 'gt_size must be a multiple of 32 for SwinIR, got 48'),
    ('DANv2', {'kernels': [{'type': 'isotropic', 'size': 15}]}, 'kernels are 15 x 15, but network_g.kernel_size is 11'),
])
def test_training_sets_that_do_not_fit(kind, changes, message, data, tmp_path, monkeypatch):
    opt = train_toy(data, kind)
    opt['datasets']['train'] |= changes
    if 'dataroot_lq' in changes:
        (data / 'small').mkdir()
        Image.fromarray(texture(16, 18, 4)).save(data / 'small/one.png')
        opt['datasets']['train']['dataroot_lq'] = str(data / 'small')
        opt['datasets']['train'] |= {'use_hflip': False, 'use_rot': False}
        del opt['datasets']['train']['kernels']
    with pytest.raises(ValueError, match=message):
        run_training(opt, tmp_path / 'train', monkeypatch)
    assert not (tmp_path / 'train/experiments').exists()


def test_training_needs_no_validation(data, tmp_path, monkeypatch):
    opt = train_toy(data, 'RRDBNet')
    del opt['val'], opt['datasets']['val_1']
    run_training(opt, tmp_path / 'train', monkeypatch, '--force_yml', 'logger:print_freq=.inf',
                 'logger:save_checkpoint_freq=.inf')  # never
    assert [path.name for path in (tmp_path / 'train/experiments/toy/models').iterdir()] == ['net_g_latest.pth']


@pytest.mark.parametrize(('force', 'message'), [
    ('train=null', "'train' needs optim_g, scheduler, total_iter"),
    ('train:total_itr=3', "unknown option 'train.total_itr': did you mean 'total_iter'?"),
    ('train:total_iter=0', 'train.total_iter must be a number, at least 1'),
    ('train:total_iter=.inf', 'train.total_iter must be a finite number, at least 1, got inf'),
    ('train:optim_g:lr=.inf', 'train.optim_g.lr must be a finite number, at least 0, got inf'),
    ('train:ema_decay=2', 'train.ema_decay must be a number, between 0 and 1'),
    ('train:warmup_iter=yes', 'train.warmup_iter must be a number'),
    ('train:optim_g=~', "'train' needs optim_g"),
    ('train:optim_g:type=~', "'train.optim_g' needs a type"),
    ('train:optim_g:type=Adan', "'train.optim_g' (Adan): "),
    ('train:optim_g:lrr=1', "'train.optim_g' (Adam): "),
    ('train:optim_g:lr=fast', 'train.optim_g.lr must be a number'),
    ('train:scheduler:type=Cosine', "'train.scheduler' (Cosine): "),
    ('train:scheduler={type: CosineAnnealingRestartLR, periods: [1], restart_weights: [1]}',
     "'train.scheduler' (CosineAnnealingRestartLR) has no learning rate at iteration 3: "),
    ('train:pixel_opt=~', "'train' needs pixel_opt or perceptual_opt"),
    ('train:pixel_opt=L1Loss', "'train.pixel_opt' must be a section with a type"),
    ('train:pixel_opt:type=L1Los', "unknown loss 'L1Los' in 'train.pixel_opt': did you mean 'L1Loss'?"),
    ('train:pixel_opt:reduction=meen', "'train.pixel_opt' (L1Loss): Unsupported reduction mode: meen"),
    ('train:perceptual_opt={type: PerceptualLoss, weights: 1}', "'train.perceptual_opt' (PerceptualLoss): "),
    ('train:kernel_opt:type=~', "unknown loss None in 'train.kernel_opt'"),
    ('logger=null', 'logger.print_freq must be a number, at least 1, got None'),
    ('logger:save_checkpoint_freq=0', 'logger.save_checkpoint_freq must be a number, at least 1'),
    ('val:val_freq=0', 'val.val_freq must be a number, at least 1'),
    ('datasets:train=~', 'datasets: a training has one data set, train, and those of its validation'),
    ('datasets:train_1={name: Two, type: SingleImageDataset, dataroot_lq: ., io_backend: {type: disk}, '
     'num_worker_per_gpu: 0, batch_size_per_gpu: 1}', 'datasets: a training has one data set, train, and those of its'),
    ('datasets:train:batch_size_per_gpu=0', 'datasets:train:batch_size_per_gpu must be a whole number, at least 1'),
    ('datasets:train:num_worker_per_gpu=-1', 'datasets:train:num_worker_per_gpu must be a whole number, at least 0'),
    ('datasets:train:prefetch_mode=gpu', 'datasets:train:prefetch_mode must be ~, cpu or cuda'),
    ('datasets:train:prefetch_mode=cuda', 'datasets:train:prefetch_mode: cuda needs pin_memory: true'),
    ('datasets:train:gt_size=40', 'datasets:train:gt_size must be at least 11 times the scale'),
])
def test_faults_in_training_options_are_told_before_a_folder_is_made(force, message, data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f'^train.yml: {re.escape(message)}') as caught:
        run_training(train_toy(data, 'DCLS'), tmp_path / 'train', monkeypatch, '--force_yml', force)
    assert '\n' not in str(caught.value) and not (tmp_path / 'train/experiments').exists()


def test_a_model_made_of_ours_may_know_more(data, tmp_path, monkeypatch):
    class OwnModel(BlindSRModel):
        def get_optimizer(self, optim_type, params, lr, **options):
            return torch.optim.NAdam(params, lr, **options)

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'OwnModel', OwnModel)
    opt = train_toy(data, 'RRDBNet', model_type='OwnModel')
    run_training(opt, tmp_path / 'train', monkeypatch, '--force_yml', 'train:optim_g:type=NAdam', 'train:clip=0.1')
    assert (tmp_path / 'train/experiments/toy/models/net_g_latest.pth').is_file()


def test_pca_command_makes_the_matrix_of_a_training_file(data, monkeypatch):
    opt = train_toy(data, 'DAN')
    opt['network_g']['pca_matrix_path'] = str(data / 'new/pca.pth')
    (data / 'train.yml').write_text(json.dumps(opt))
    answer = CliRunner().invoke(main, ['pca', '-opt', str(data / 'train.yml'), '--count', '300'])
    assert answer.exit_code == 0, answer.output
    assert re.search(r'pca\.pth: 121 x 4\. .*mean [01]\.\d+, lowest ', answer.output)
    matrix = load_pca(data / 'new/pca.pth')
    assert matrix.shape == (121, 4)
    DAN(pca_matrix_path=str(data / 'new/pca.pth'), **{k: v for k, v in SMALL['DAN'].items() if k != 'type'})
    for force, message in (('datasets:train:kernels=[1]', "in 'datasets.train.kernels.0'"),
                           ('network_g=3', "'network_g' must be a section"),
                           ('network_g:input_para=122', 'input_para must be a whole number, between 1 and 121'),
                           ('network_g:input_para=20', '--count must be at least 20')):
        wrong = CliRunner().invoke(main, ['pca', '-opt', str(data / 'train.yml'), '--count', '10',
                                          '--force_yml', force])
        assert wrong.exit_code == 2 and message in wrong.output
    monkeypatch.setattr('kernelfusion_plugin.cli.pca.pca_matrix', lambda *_: pytest.fail('found out after the work'))
    wrong = CliRunner().invoke(main, ['pca', '-opt', str(data / 'train.yml'), '-o', str(data / 'train.yml/pca.pth')])
    assert wrong.exit_code == 2 and 'train.yml/pca.pth: cannot be created or written to' in wrong.output
    wrong = CliRunner().invoke(main, ['pca', '-opt', str(data / 'train.yml'), '-o', str(data / 'train.yml')])
    assert wrong.exit_code == 2 and 'must end in .pt or .pth' in wrong.output
