"""The baselines' option files: what they say of the weights, their networks' sizes, and that they run.

    python -m pytest -m slow -s tests/glue/test_baseline_options.py

runs each at full size with random weights, and trains DAN and DCLS for 200 steps on scikit-image's photographs.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from glue_helpers import run_toolbox, scores, write_pair
from PIL import Image
from test_blind_sr_model import run_training

from kernelfusion_plugin import compat
from kernelfusion_plugin.core.degradation import synthesise
from kernelfusion_plugin.core.kernel_families import Mixture
from kernelfusion_plugin.core.kernel_pca import pca_matrix
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.models.build import build
from kernelfusion_plugin.models.networks import network_options
from kernelfusion_plugin.models.published import PUBLISHED
from kernelfusion_plugin.option_files import apply_force_yml, read_file

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
PARAMETERS = {  # of the published networks
    'swinir_x2': 11_752_487, 'swinir_x4': 11_900_199, 'swinir_real_x4': 11_715_559, 'realesrgan_x4': 16_697_987,
    'danv1_x2': None, 'danv1_x4': 4_329_511, 'danv2_x2': None, 'danv2_x4': 4_707_708, 'danv2_x4_aniso': 4_741_828,
    'dcls_x4': 13_626_187, 'dcls_x4_aniso': 19_054_027}
SMALL = {
    'train_dan': ['network_g:nf=8', 'network_g:nb=1', 'network_g:ng=1', 'network_g:loop=2',
                  'network_g:pca_matrix_path=pca.pth'],
    'train_dcls': ['network_g:nf=16', 'network_g:nb=1', 'network_g:ng=1', 'network_g:input_para=8',
                   'network_g:kernel_size=11']}


def options(name, *entries):
    opt = read_file(OPTIONS / f'{name}.yml')
    apply_force_yml(opt, ['num_gpu=0', *entries])
    return opt


def test_every_baseline_has_its_file():
    found = {path.stem for path in OPTIONS.glob('*.yml') if read_file(path)['model_type'] == 'BlindSRModel'}
    assert found == PARAMETERS.keys() | SMALL.keys()


@pytest.mark.parametrize('name', PARAMETERS)
def test_the_file_says_where_its_weights_come_from(name, tmp_path, monkeypatch):
    text, opt = (OPTIONS / f'{name}.yml').read_text(encoding='utf-8'), options(name)
    place = Path(opt['path']['pretrain_network_g'])
    entry = PUBLISHED[place.name]
    assert opt['name'] == name and f'# Weights: {entry.file}\n' in text and f'to {place.parent}/' in text
    assert entry.source.split(' ')[0] in text
    assert re.search('licence: (.*)', text)[1].split(' ')[0] == entry.licence.split(' ')[0]
    (tmp_path / 'datasets/pictures').mkdir(parents=True)
    with pytest.raises(ValueError, match=f'there is no file {re.escape(str(place))}: download') as error:
        run_toolbox(opt, tmp_path, monkeypatch)
    assert entry.source in str(error.value) and entry.licence in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', PARAMETERS)
def test_the_network_is_the_published_one(name):
    compat.register()
    net = build('network_g', network_options(options(name)))
    count = sum(p.numel() for p in net.parameters())
    assert PARAMETERS[name] in (None, count)


@pytest.mark.parametrize('name', SMALL)
def test_the_training_file_trains(name, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for folder in ('datasets/DF2K/HR', 'datasets/DIV2K/valid_HR'):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (72, 80, 3), np.uint8)).save(tmp_path / folder / 'a.png')
    torch.save(torch.randn(576, 10), tmp_path / 'pca.pth')
    run_training(options(name, *SMALL[name], 'train:total_iter=2', 'datasets:train:gt_size=64',
                         'datasets:train:batch_size_per_gpu=2', 'datasets:train:num_worker_per_gpu=0'),
                 tmp_path, monkeypatch)
    assert (tmp_path / f'experiments/{name}/models/net_g_latest.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('truth', [False, True])
@pytest.mark.parametrize('name', PARAMETERS)
def test_the_file_runs_at_full_size(name, truth, tmp_path, monkeypatch):
    compat.register()
    opt = options(name)
    torch.manual_seed(0)
    net = build('network_g', network_options(opt))
    if hasattr(net, 'encoder'):
        net.encoder.copy_(torch.randn(net.encoder.shape))
    weights = tmp_path / opt['path']['pretrain_network_g']
    weights.parent.mkdir(parents=True)
    torch.save({'params': net.state_dict()}, weights)
    write_pair(tmp_path / 'datasets', 'one', 1, (14, 19), opt['scale'])
    (tmp_path / 'datasets/lr').rename(tmp_path / 'datasets/pictures')
    entries = ['datasets:test_1:type=TolerantPairedDataset', 'datasets:test_1:dataroot_gt=datasets/hr',
               'datasets:test_1:dataroot_kernel=datasets/kernels'] if truth else []
    assert run_toolbox(options(name, *entries), tmp_path, monkeypatch) == 0
    row, = scores(tmp_path, name)
    assert bool(row['psnr']) == truth and bool(row['kernel_ncc']) == (truth and 'dan' in name)
    picture = tmp_path / f'results/{name}/visualization/pictures/one_{name}.png'
    assert Image.open(picture).size == (19 * opt['scale'], 14 * opt['scale'])


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'test_name'), [('train_dan', 'danv2_x4'), ('train_dcls', 'dcls_x4')])
def test_training_on_photographs(name, test_name, tmp_path, monkeypatch, log):
    """The loss falls by 30 % in 200 steps, and the weights serve basicsr/test.py."""
    skimage = pytest.importorskip('skimage.data')
    photographs = {'train': ('astronaut', 'chelsea', 'rocket'), 'val': ('coffee',)}
    for folder, names in photographs.items():
        (tmp_path / folder).mkdir()
        for photograph in names:
            Image.fromarray(getattr(skimage, photograph)()).save(tmp_path / folder / f'{photograph}.png')
    network = [f'network_g:{key}={value}' for key, value in {
        'train_dan': {'nf': 16, 'nb': 2, 'ng': 2, 'loop': 2, 'kernel_size': 24},
        'train_dcls': {'nf': 16, 'nb': 2, 'ng': 2, 'input_para': 32, 'kernel_size': 11}}[name].items()]
    opt = options(name, *network, 'datasets:train:dataroot_gt=train', 'datasets:val_1:dataroot_gt=val',
                  'datasets:train:gt_size=64', 'datasets:train:batch_size_per_gpu=4', 'train:total_iter=200',
                  'datasets:train:num_worker_per_gpu=0', 'train:optim_g:lr=1e-3', 'train:ema_decay=0.95',
                  'logger:print_freq=1')
    if name == 'train_dan':
        opt['network_g']['pca_matrix_path'] = 'pca.pth'
        mixture, generator = Mixture.from_options(opt['datasets']['train']['kernels']), torch.Generator().manual_seed(0)
        torch.save(pca_matrix((mixture.draw(generator) for _ in range(1000)), 10), tmp_path / 'pca.pth')
    run_training(opt, tmp_path, monkeypatch)
    for part in ('l_pix', 'l_kernel'):
        values = [float(text) for text in re.findall(rf'{part}: (\S+)', log.text)]
        assert len(values) == 200
        first, last = np.mean(values[:20]), np.mean(values[-20:])
        print(f'{name} {part}: {first:.5f} in the first 20 steps, {last:.5f} in the last, {1 - last / first:.0%} less')
        assert part != 'l_pix' or last < 0.7 * first
    x = torch.from_numpy(np.array(Image.open(tmp_path / 'val/coffee.png'))).permute(2, 0, 1)[None]
    y = synthesise(x, gaussian(21, sigmas=(2.0, 3.0), theta=0.5), 4, 'reflect')
    (tmp_path / 'lr').mkdir()
    Image.fromarray(y[0].permute(1, 2, 0).numpy()).save(tmp_path / 'lr/coffee.png')
    opt = options(test_name, *network, 'datasets:test_1:dataroot_lq=lr', 'datasets:test_1:dataroot_gt=val',
                  'datasets:test_1:type=TolerantPairedDataset',
                  f'path:pretrain_network_g=experiments/{name}/models/net_g_latest.pth')
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    row, = scores(tmp_path, test_name)
    print(f'{name}: coffee {row["psnr"]} dB, bicubic {row["psnr_bicubic"]} dB')
    assert float(row['psnr']) > float(row['psnr_bicubic']) - 3
