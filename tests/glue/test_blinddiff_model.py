"""BlindDiffModel through the real toolbox at toy size: training, stop and resume, restoration, its files and faults."""

import json
import sys
from pathlib import Path

import basicsr.train
import numpy as np
import pytest
import torch
import yaml
from glue_helpers import digests, run_toolbox, scores, texture, write_pair
from PIL import Image

from kernelfusion_plugin import compat, resume, runlog
from kernelfusion_plugin import options as option_reader
from kernelfusion_plugin.models.blinddiff_model import BlindDiffModel
from kernelfusion_plugin.models.blinddiff_options import build_net, load_into, parse_section
from kernelfusion_plugin.option_files import apply_force_yml, read_file

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
KERNELS = [{'type': 'isotropic', 'sigma': [0.3, 2.0], 'size': 9}]
NET = {'type': 'MCFormer', 'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'kernel_size': 9,
       'kernels': KERNELS, 'code_length': 4}
SECTION = {'steps': 2, 'guidance_weight': 1e-3, 'sheet': False}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """HR pictures in hr/, and weights of the toy network in net.pth."""
    root = tmp_path_factory.mktemp('data')
    (root / 'hr').mkdir()
    for i, size in enumerate([(32, 32), (32, 32), (40, 56), (32, 32)]):
        Image.fromarray(texture(*size, i)).save(root / f'hr/{"abcd"[i]}.png')
    torch.manual_seed(0)
    torch.save({'params': build_net({'network_g': NET}, 4).state_dict()}, root / 'net.pth')
    return root


def options_to_test(data, **section):
    return {
        'name': 'toy', 'model_type': 'BlindDiffModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {'test_1': {'name': 'Toy', 'type': 'RandomBlurDataset', 'dataroot_gt': str(data / 'hr'),
                                'io_backend': {'type': 'disk'}, 'kernels': KERNELS}},
        'network_g': dict(NET), 'blinddiff': {**SECTION, **section},
        'path': {'pretrain_network_g': str(data / 'net.pth')}, 'val': {'save_img': True, 'suffix': None},
    }


def options_to_train(data, **changes):
    return {
        'name': 'toy', 'model_type': 'BlindDiffModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 3,
        'datasets': {'train': {'name': 'Toy', 'type': 'RandomBlurDataset', 'dataroot_gt': str(data / 'hr'),
                               'io_backend': {'type': 'disk'}, 'gt_size': 16, 'kernels': KERNELS, 'use_hflip': True,
                               'use_rot': True, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 3,
                               'dataset_enlarge_ratio': 5}},  # 20 indices: an epoch of seven batches
        'network_g': dict(NET), 'blinddiff': dict(SECTION), 'path': {},
        'train': {'ema_decay': 0.9, 'optim_g': {'type': 'Adam', 'lr': 1e-3},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [3, 7], 'gamma': 0.5}, 'total_iter': 9},
        'logger': {'print_freq': 100, 'save_checkpoint_freq': 4, 'use_tb_logger': False}, **changes}


def train(opt, folder, monkeypatch, *arguments):
    """``basicsr/train.py -opt …`` in ``folder``; returns the weights that it ends with, under both keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'toy.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'toy.yml', *arguments])
    original = getattr(basicsr.train.parse_options, '__wrapped__', basicsr.train.parse_options)
    monkeypatch.setattr(basicsr.train, 'parse_options',
                        lambda root, is_train: option_reader.parse_options(original, root, is_train))
    for name in ('load_resume_state', 'EnlargedSampler'):
        monkeypatch.setattr(basicsr.train, name, getattr(basicsr.train, name))  # put back what patch replaces
    monkeypatch.setattr(option_reader, '_every_run', True)
    runlog.failures.clear()
    compat.register()
    resume.patch(basicsr.train)
    basicsr.train.train_pipeline(str(folder))
    content = torch.load(folder / 'experiments/toy/models/net_g_latest.pth', weights_only=True)
    return {f'{key}/{name}': value for key, state in content.items() for name, value in state.items()}


@pytest.mark.parametrize('stop_at', [5, 8])  # behind a checkpoint within the first epoch; in the second epoch
def test_a_run_that_is_killed_and_resumed_ends_in_the_same_weights(data, tmp_path, monkeypatch, stop_at):
    opt = options_to_train(data)
    if stop_at == 8:
        opt['logger']['save_checkpoint_freq'] = 7  # the checkpoint is the last iteration of its epoch
    whole = train(opt, tmp_path / 'whole', monkeypatch)
    step = BlindDiffModel.optimize_parameters

    def killed(self, current_iter):
        if current_iter > stop_at:
            raise KeyboardInterrupt
        step(self, current_iter)

    monkeypatch.setattr(BlindDiffModel, 'optimize_parameters', killed)
    with pytest.raises(KeyboardInterrupt):
        train(opt, tmp_path / 'stopped', monkeypatch)
    monkeypatch.setattr(BlindDiffModel, 'optimize_parameters', step)
    torch.manual_seed(12345)
    resumed = train(opt, tmp_path / 'stopped', monkeypatch, '--auto_resume')
    assert whole.keys() == resumed.keys() and any(key.startswith('params_ema/') for key in whole)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    other = train({**opt, 'manual_seed': 4}, tmp_path / 'other', monkeypatch)
    assert any(not torch.equal(whole[key], other[key]) for key in whole)


def test_training_does_not_depend_on_the_number_of_workers(data, tmp_path, monkeypatch):
    opt = options_to_train(data)
    opt['train']['total_iter'] = 3
    alone = train(opt, tmp_path / 'alone', monkeypatch)
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    helped = train(opt, tmp_path / 'helped', monkeypatch)
    assert all(torch.equal(alone[key], helped[key]) for key in alone)


def test_training_reaches_its_last_iteration_with_fewer_pictures_than_a_batch(data, tmp_path, monkeypatch):
    opt = options_to_train(data)
    opt['datasets']['train'] |= {'batch_size_per_gpu': 5, 'dataset_enlarge_ratio': 1}
    opt['train']['total_iter'], opt['logger']['save_checkpoint_freq'] = 3, 3
    train(opt, tmp_path, monkeypatch)
    assert (tmp_path / 'experiments/toy/training_states/3.state').exists()


def test_the_rate_falls_and_the_average_follows(data, tmp_path, monkeypatch):
    opt = options_to_train(data)
    rates = []
    step = BlindDiffModel.optimize_parameters
    monkeypatch.setattr(BlindDiffModel, 'optimize_parameters', lambda self, i: (
        rates.append(self.get_current_learning_rate()[0]), step(self, i)))
    weights = train(opt, tmp_path, monkeypatch)
    assert rates[0] == 1e-3 and rates[-1] == 2.5e-4 and sorted(rates, reverse=True) == rates
    assert not torch.equal(weights['params/output.weight'], weights['params_ema/output.weight'])


@pytest.mark.parametrize(('changes', 'message'), [
    ({'network_g': {**NET, 'kernel_size': 13, 'kernels': [{'type': 'isotropic', 'size': 13}]}},
     'kernels are 9 x 9, but network_g.kernel_size is 13: they must be equal'),
    ({'train': {'total_iter': 9, 'optim_g': {'type': 'Adam', 'lr': 1e-3}}}, "'train' needs scheduler"),
    ({'logger': {}}, 'logger.print_freq must be a number')])
def test_faults_in_training_options_are_told_before_a_folder_is_made(changes, message, data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f'^toy.yml: .*{message}'):
        train(options_to_train(data, **changes), tmp_path / 'train', monkeypatch)
    assert not (tmp_path / 'train/experiments').exists()


def test_validation_within_training(data, tmp_path, monkeypatch):
    opt = options_to_train(data)
    opt['train']['total_iter'] = 2
    opt['datasets']['val'] = {**options_to_test(data)['datasets']['test_1']}
    opt['val'] = {'val_freq': 2, 'save_img': True}
    train(opt, tmp_path, monkeypatch)
    folder = tmp_path / 'experiments/toy/visualization'
    assert {path.name for path in folder.rglob('*_2.png')} == {f'{name}_2.png' for name in 'abcd'}
    assert len(list(folder.rglob('scores.csv'))) == 1


def test_a_damaged_training_state_is_one_line(data, tmp_path, monkeypatch):
    opt = options_to_train(data, path={'resume_state': str(data / 'net.pth')})
    with pytest.raises(ValueError, match='not a training state'):
        train(opt, tmp_path, monkeypatch)
    (tmp_path / 'wrong.yml').write_text('base: other.yml')  # read as a pickle, pops from an empty list
    opt['path']['resume_state'] = 'wrong.yml'
    with pytest.raises(ValueError, match='^wrong.yml: not a training state: it holds more'):
        train(opt, tmp_path, monkeypatch)
    opt['path']['resume_state'] = str(tmp_path / 'none.state')
    with pytest.raises(ValueError, match='there is no file'):
        train(opt, tmp_path, monkeypatch)


def test_training_without_kernels_is_refused(data, tmp_path):
    opt = options_to_train(data) | {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True}
    opt['path'] = {'visualization': str(tmp_path)}
    model = BlindDiffModel(opt)
    model.feed_data({'lq': torch.zeros(1, 3, 4, 4), 'gt': torch.zeros(1, 3, 16, 16)})
    with pytest.raises(ValueError, match='RandomBlurDataset'):
        model.optimize_parameters(1)


def test_everything_is_written_and_batches_change_nothing(data, tmp_path, monkeypatch):
    opt = options_to_test(data, sheet=True)
    assert run_toolbox(opt, tmp_path / 'one', monkeypatch) == 0
    folder = tmp_path / 'one/results/toy/visualization/Toy'
    for name, size in (('a', (32, 32)), ('c', (56, 40))):
        assert {path.name for path in folder.glob(f'{name}_*')} == {
            f'{name}_{what}' for what in ('toy.png', 'kernel.npy', 'kernel.png', 'sheet.png')}
        assert Image.open(folder / f'{name}_toy.png').size == size
        kernel = np.load(folder / f'{name}_kernel.npy')
        assert kernel.shape == (9, 9) and abs(kernel.sum() - 1) < 1e-5 and kernel.min() >= 0
    rows = scores(tmp_path / 'one')
    assert [row['image'] for row in rows] == list('abcd')
    assert all(row['psnr'] and row['kernel_ncc'] and row['solver'] == 'blinddiff' for row in rows)
    summary = json.loads((tmp_path / 'one/results/toy/summary.json').read_text())
    assert summary['config']['steps'] == 2 and summary['config']['preset'] == 'paper'
    assert run_toolbox(options_to_test(data, sheet=True, batch=3), tmp_path / 'three', monkeypatch) == 0
    for name in 'abcd':
        files = [tmp_path / run / f'results/toy/visualization/Toy/{name}_toy.png' for run in ('one', 'three')]
        first, second = (np.asarray(Image.open(file)).astype(int) for file in files)
        assert np.abs(first - second).max() <= 1
    assert run_toolbox(options_to_test(data, sheet=True), tmp_path / 'again', monkeypatch) == 0
    assert digests(tmp_path / 'one') == digests(tmp_path / 'again')
    assert run_toolbox(options_to_test(data, seed=1), tmp_path / 'seed', monkeypatch) == 0
    assert digests(tmp_path / 'seed')['Toy/a_toy.png'] != digests(tmp_path / 'one')['Toy/a_toy.png']


def test_pairs_with_their_kernels_in_a_folder_and_the_oracle(data, tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1, size=(8, 9), kernel_size=12)
    opt = options_to_test(data, kernel_oracle=True)
    opt['datasets']['test_1'] = {'name': 'Pairs', 'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'hr'),
                                 'dataroot_lq': str(tmp_path / 'lr'), 'dataroot_kernel': str(tmp_path / 'kernels'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, tmp_path / 'oracle', monkeypatch) == 0
    assert scores(tmp_path / 'oracle')[0]['kernel_ncc']
    opt['blinddiff']['kernel_oracle'] = False
    assert run_toolbox(opt, tmp_path / 'blind', monkeypatch) == 0
    assert digests(tmp_path / 'oracle')['Pairs/one_toy.png'] != digests(tmp_path / 'blind')['Pairs/one_toy.png']
    del opt['datasets']['test_1']['dataroot_kernel']
    opt['blinddiff']['kernel_oracle'] = True
    assert run_toolbox(opt, tmp_path / 'unknown', monkeypatch) == 1
    assert 'kernel_oracle needs true kernels' in runlog.failures[0]


def test_a_batch_has_kernels_of_one_size(data, tmp_path, monkeypatch):
    for name, size in (('a', 12), ('b', 16), ('c', 12)):
        write_pair(tmp_path, name, 1, size=(8, 8), kernel_size=size)
    opt = options_to_test(data, batch=3, kernel_oracle=True)
    opt['datasets']['test_1'] = {'name': 'Pairs', 'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'hr'),
                                 'dataroot_lq': str(tmp_path / 'lr'), 'dataroot_kernel': str(tmp_path / 'kernels'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, tmp_path / 'run', monkeypatch) == 0
    assert [row['image'] for row in scores(tmp_path / 'run')] == ['a', 'b', 'c']


def test_one_bad_image_costs_one_line_also_within_a_batch(data, tmp_path, monkeypatch, log):
    for name in ('a', 'c', 'd'):
        write_pair(tmp_path, name, 1, size=(8, 8))
    (tmp_path / 'lr/b.png').write_bytes(b'no image')
    (tmp_path / 'hr/b.png').write_bytes((tmp_path / 'hr/a.png').read_bytes())
    opt = options_to_test(data, batch=4)
    opt['datasets']['test_1'] = {'name': 'Plain', 'type': 'SingleImageDataset', 'dataroot_lq': str(tmp_path / 'lr'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, tmp_path / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(tmp_path / 'run')] == ['a', 'c', 'd'] and len(runlog.failures) == 1


def test_grey_pictures_come_out_grey(data, tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1, size=(8, 8))
    opt = options_to_test(data)
    opt['datasets']['test_1'] = {'name': 'Grey', 'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'hr'),
                                 'dataroot_lq': str(tmp_path / 'lr'), 'color': 'y', 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, tmp_path / 'run', monkeypatch) == 0
    assert Image.open(tmp_path / 'run/results/toy/visualization/Grey/one_toy.png').mode == 'L'


@pytest.mark.parametrize(('section', 'message'), [
    ({'lamda': 1}, "unknown option 'blinddiff.lamda'"), ({'bach': 2}, "did you mean 'batch'"), ({'batch': 0}, 'batch'),
    ({'kernel_oracle': 'yes'}, 'blinddiff.kernel_oracle must be true or false'), ({'preset': 'x'}, 'unknown preset')])
def test_wrong_key_of_the_section(section, message):
    with pytest.raises(ValueError, match=message):
        parse_section(section)


@pytest.mark.parametrize(('network', 'message'), [
    ({'type': 'MCFormr'}, "did you mean 'MCFormer'"), ({'type': 'MCFormer', 'dimm': 8}, 'dimm'),
    ({'type': 'MCFormer', 'kernel_head': 'gan'}, 'kernel_head'),
    ({'type': 'MCFormer', 'scale': 2}, "'network_g.scale'"),
    ({'type': 'MCFormer', 'kernel_size': 11, 'kernels': KERNELS}, 'kernel_size')])
def test_wrong_network(network, message):
    with pytest.raises(ValueError, match=message):
        build_net({'network_g': network}, 4)


def test_weights_that_are_missing_or_of_another_network(data, tmp_path):
    opt = options_to_test(data) | {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': False}
    opt['path'] = {'visualization': str(tmp_path)}
    with pytest.raises(ValueError, match='pretrain_network_g must name trained weights'):
        BlindDiffModel(opt)
    with pytest.raises(ValueError, match='does not fit network_g'):
        load_into(build_net({'network_g': {**NET, 'dim': 16}}, 4), str(data / 'net.pth'), 'params')
    with pytest.raises(ValueError, match='there is no file .*net.pth'):
        load_into(build_net({'network_g': NET}, 4), str(tmp_path / 'net.pth'), 'params')


@pytest.mark.parametrize(('kept', 'wanted', 'taken'), [
    (('params', 'params_ema'), 'params_ema', 'params_ema'), (('params', 'params_ema'), 'params', 'params'),
    (('params_ema',), 'params_ema', 'params_ema'), (('params',), 'params_ema', 'params'), ((), 'params_ema', 'params')])
def test_which_weights_of_a_file_are_taken(kept, wanted, taken, tmp_path):
    nets = {name: build_net({'network_g': NET}, 4) for name in ('params', 'params_ema')}
    for number, net in enumerate(nets.values()):
        torch.nn.init.constant_(net.output.weight, number)
    states = {name: {f'module.{key}': value for key, value in net.state_dict().items()} for name, net in nets.items()}
    torch.save({name: states[name] for name in kept} if kept else states['params'], tmp_path / 'net.pth')
    net = build_net({'network_g': NET}, 4)
    load_into(net, str(tmp_path / 'net.pth'), wanted)
    assert torch.equal(net.output.weight, nets[taken].output.weight)


def test_every_option_file_is_read_and_fits_the_model():
    files = sorted(OPTIONS.glob('*blinddiff*.yml'))
    assert {file.stem for file in files} >= {
        'train_blinddiff_iso', 'train_blinddiff_aniso', 'blinddiff_set5', 'blinddiff_bsd100', 'blinddiff_div2k100',
        'blinddiff_imagenet', 'blinddiff_ffhq', 'blinddiff_div2k100_aniso', 'blinddiff_imagenet_aniso',
        'blinddiff_table3', 'train_blinddiff_table3', 'blinddiff_folder', 'blinddiff_released'}
    for file in files:
        opt = read_file(file)
        assert opt['name'] == file.stem and opt['model_type'] == 'BlindDiffModel'
        parse_section(opt['blinddiff'])
        net = build_net({'network_g': {**opt['network_g'], 'dim': 8}}, opt['scale'])
        for dataset in opt['datasets'].values():
            for family in dataset.get('kernels', []):
                assert family['size'] == net.kernel_size
    released = build_net(read_file(OPTIONS / 'blinddiff_released.yml'), 4)
    assert sum(p.numel() for p in released.parameters()) == 26_509_267
    assert released.learned_variance and released.upsampling == 'torch'
    sets = read_file(OPTIONS / 'blinddiff_set5.yml')['datasets'].values()
    assert [dataset['kernels'][0]['sigma'] for dataset in sets] == [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2]  # Gaussian8


@pytest.mark.parametrize('file', ['blinddiff_table3', 'train_blinddiff_table3'])
def test_the_ablations_that_the_heads_of_the_files_name(file):
    text = (OPTIONS / f'{file}.yml').read_text()
    lines = [line.partition('--force_yml ')[2].split('   ')[0].split() for line in text.splitlines()
             if line.startswith('#') and '--force_yml' in line]
    found = []
    for entries in lines:
        opt = read_file(OPTIONS / f'{file}.yml')
        apply_force_yml(opt, [entry for entry in entries if entry != 'W'])
        config = parse_section(opt['blinddiff'])[0]
        net = build_net({'network_g': {**opt['network_g'], 'dim': 8}}, 4)
        found.append((net.modulation, config.guidance, config.guidance_weight, config.kernel_weight))
    if file.startswith('train'):
        assert found == [(False, 'kernel', 1, 1), (False, 'kernel', 1, 0)]
    else:  # C, E, A, B, F, baseline, Table 4
        assert [each[:3] for each in found] == [
            (True, 'kernel', 0), (True, 'bicubic', 1), (False, 'bicubic', 1), (False, 'kernel', 1),
            (False, 'bicubic', 1), (False, 'kernel', 0), (True, 'kernel', 5)]


@pytest.mark.parametrize('file', ['blinddiff_set5', 'blinddiff_imagenet_aniso', 'train_blinddiff_aniso'])
def test_option_files_run_at_toy_size(file, data, tmp_path, monkeypatch):
    opt = read_file(OPTIONS / f'{file}.yml')
    opt['network_g'].update(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1)
    for dataset in opt['datasets'].values():
        dataset['dataroot_gt'] = str(data / 'hr')
    if 'train' in file:
        opt['name'] = 'toy'
        opt['datasets']['train'].update(gt_size=16, num_worker_per_gpu=0, batch_size_per_gpu=2)
        opt['train']['total_iter'] = 2
        assert train(opt, tmp_path, monkeypatch)
        return
    torch.save({'params': build_net(opt, 4).state_dict()}, tmp_path / 'net.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'net.pth')
    opt['blinddiff'].update(steps=1, sheet=False)
    opt['num_gpu'] = 0
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    assert len(scores(tmp_path, opt['name'])) == 4 * len(opt['datasets'])
