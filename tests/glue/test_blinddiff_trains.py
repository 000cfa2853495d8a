"""A small BlindDiff, trained from nothing by ``basicsr/train.py`` on photographs of scikit-image, x4, isotropic blur.

    BLINDDIFF_TOY=folder python -m pytest -m slow -s tests/glue/test_blinddiff_trains.py

Some fifteen minutes of one CPU core. ``BLINDDIFF_TOY`` names a folder where the run is kept, and goes on after a stop;
there the pictures lie too. Without it all is done in a temporary folder.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from starting import ROOT

from kernelfusion_plugin.core.blinddiff import BlindDiffConfig, training_loss
from kernelfusion_plugin.core.blinddiff_sampling import degrade, image_generator, sample
from kernelfusion_plugin.core.degradation import Degradation, upscale_bicubic
from kernelfusion_plugin.core.kernel_families import Mixture
from kernelfusion_plugin.core.metrics import lr_consistency, psnr_y

TRAINING = ('astronaut', 'chelsea', 'rocket', 'brick', 'grass', 'gravel', 'immunohistochemistry')
UNSEEN = ('coffee', 'camera')
KERNELS = [{'type': 'isotropic', 'sigma': [0.2, 4.0], 'size': 21}]
OPTIONS = {
    'name': 'blinddiff_toy', 'model_type': 'BlindDiffModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 0,
    'datasets': {'train': {'name': 'photographs', 'type': 'RandomBlurDataset', 'dataroot_gt': 'photographs',
                           'io_backend': {'type': 'disk'}, 'gt_size': 64, 'kernels': KERNELS, 'use_hflip': True,
                           'use_rot': True, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 4,
                           'dataset_enlarge_ratio': 300}},
    'network_g': {'type': 'MCFormer', 'dim': 16, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1,
                  'ffn_expansion_factor': 1.0},
    'path': {},
    'train': {'ema_decay': 0.99, 'optim_g': {'type': 'Adam', 'lr': 2e-3, 'betas': [0.9, 0.99]},
              'scheduler': {'type': 'MultiStepLR', 'milestones': [1800, 2250, 2550], 'gamma': 0.4},
              'total_iter': 2700, 'warmup_iter': 50},
    'logger': {'print_freq': 20, 'save_checkpoint_freq': 100, 'use_tb_logger': False},
}
pytestmark = pytest.mark.slow


def photograph(name):
    data = pytest.importorskip('skimage.data')
    picture = getattr(data, name)()
    return picture[..., :3] if picture.ndim == 3 else np.stack([picture] * 3, -1)


def tensor(name):
    return torch.from_numpy(photograph(name).copy()).permute(2, 0, 1).float() / 127.5 - 1


def write_photographs(folder, side=256):
    """Cut into squares, which are quicker to read than whole pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TRAINING:
        picture = photograph(name)
        for top in range(0, picture.shape[0] - side + 1, side):
            for left in range(0, picture.shape[1] - side + 1, side):
                square = Image.fromarray(picture[top:top + side, left:left + side])
                square.save(folder / f'{name}_{top}_{left}.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The folder of a finished run."""
    kept = os.environ.get('BLINDDIFF_TOY')
    root = Path(kept).resolve() if kept else tmp_path_factory.mktemp('toy')
    write_photographs(root / 'photographs')
    (root / 'toy.yml').write_text(yaml.safe_dump(OPTIONS))
    if not (root / 'experiments/blinddiff_toy/models/net_g_latest.pth').exists():
        resume = ['--auto_resume'] if (root / 'experiments/blinddiff_toy/training_states').is_dir() else []
        subprocess.run([sys.executable, str(ROOT / 'basicsr/train.py'), '-opt', 'toy.yml', *resume], cwd=root,
                       check=True)
    return root


@pytest.fixture(scope='module')
def net(folder):
    from kernelfusion_plugin.models.blinddiff_options import build_net, load_into
    net = build_net(OPTIONS, 4).eval().requires_grad_(False)
    load_into(net, folder / 'experiments/blinddiff_toy/models/net_g_latest.pth', 'params_ema')
    return net


def crops(names, count, size, seed):
    """x (count, 3, size, size), y, and kernels that training never drew."""
    generator, mixture = torch.Generator().manual_seed(seed), Mixture.from_options(KERNELS)
    pictures, x, k = [tensor(name) for name in names], [], []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in picture.shape[1:])
        x.append(picture[:, top:top + size, left:left + size])
        k.append(mixture.draw(generator))
    x, k = torch.stack(x), torch.stack(k)
    y = torch.cat([Degradation(4, 21, 'reflect').forward(one[None], kernel) for one, kernel in zip(x, k)])
    return x, (y * 127.5).round() / 127.5, k


def constant_kernel():
    """The best constant answer in L1, the median of the family's kernels."""
    generator, mixture = torch.Generator().manual_seed(99), Mixture.from_options(KERNELS)
    return torch.stack([mixture.draw(generator) for _ in range(2000)]).median(0).values


def test_the_noise_loss_falls(folder):
    logs = sorted((folder / 'experiments/blinddiff_toy').glob('train_*.log'))
    losses = [float(value) for log in logs for value in re.findall(r'l_noise: (\S+)', log.read_text())]
    print(f'noise loss: first five of the log {np.mean(losses[:5]):.4f}, last ten {np.mean(losses[-10:]):.4f}')
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_the_kernel_is_found(net):
    """Eq. 13's kernel term on kernels not seen, t uniform, beside the best constant kernel."""
    schedule, falls = BlindDiffConfig().schedule(), {}
    for title, names in (('training photographs', TRAINING), ('unseen photographs', UNSEEN)):
        for size in (64, 128):
            found, constant = [], []
            for seed in range(4):
                x, y, k = crops(names, 16, size, 1000 + seed)
                g = torch.Generator().manual_seed(seed)
                t = torch.randint(1000, (16,), generator=g)
                losses = training_loss(net, x, y, k, t, torch.randn(x.shape, generator=g), schedule, BlindDiffConfig())
                found.append(float(losses.kernel))
                constant.append(float((k - constant_kernel()).abs().sum((1, 2)).mean()))
            falls[title, size] = 1 - np.mean(found) / np.mean(constant)
            print(f'{title}, crops of {size}: kernel L1 {np.mean(found):.3f}, constant {np.mean(constant):.3f}: '
                  f'{-100 * falls[title, size]:.0f} %', flush=True)
    assert falls['training photographs', 128] >= 0.4


def test_the_gradient_term_makes_the_result_consistent(net, folder):
    """LR-consistency of Algorithm 2's result under the true kernel, on images not seen: lambda = 1 beside 0."""
    x, y, k = crops(UNSEEN, 6, 64, 2000)
    scores, results = {}, {}
    for weight in (0.0, 0.1, 1.0):
        config = BlindDiffConfig(steps=50, guidance_weight=weight)
        *_, state = sample(net, y, 4, config, [image_generator(0, str(i)) for i in range(len(y))])
        sr = results[weight] = state.x_t.clamp(-1, 1)
        operator = Degradation(4, 21, 'reflect')
        scores[weight] = np.mean([lr_consistency(y[i], sr[i], k[i], operator) for i in range(len(y))])
        own = np.mean([float((y[i] - degrade(sr[i:i + 1], state.kernel[i:i + 1], 4, config)).square().mean())
                       for i in range(len(y))])
        psnr = np.mean([psnr_y(sr[i], x[i]) for i in range(len(y))])
        error = float((state.kernel - k).abs().sum((1, 2)).mean())
        print(f'lambda {weight}: LR-consistency {scores[weight]:.2f} dB (own kernel {10 * np.log10(4 / own):.2f}), '
              f'PSNR {psnr:.2f} dB, kernel L1 {error:.3f}', flush=True)
    up = upscale_bicubic(y, 4).clamp(-1, 1)
    print(f'bicubic: PSNR {np.mean([psnr_y(up[i], x[i]) for i in range(len(y))]):.2f} dB')
    rows = [torch.cat(list(z), dim=2) for z in (up, *results.values(), x)]
    picture = ((torch.cat(rows, dim=1).permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    Image.fromarray(picture).save(folder / 'bicubic_lambda_0_0.1_1_truth.png')
    assert scores[1.0] >= scores[0.0] + 1
