"""For the tests that start programs: folders that stand in for site-packages and for checkouts, and toy runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PTH = 'kernelfusion_hook.pth'


def python(*arguments, cwd, path=(), **environment):
    """Run Python with ``path`` in front of its module search, and no start-up hook but those that ``path`` holds."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(('KERNELFUSION_', 'PYTHONPATH'))}
    env.update({'PYTHONPATH': os.pathsep.join(map(str, path)), 'OMP_NUM_THREADS': '1', **environment})
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=env, text=True, capture_output=True,
                          timeout=300)


def write(path, text=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def startup_folder(folder, *, with_hook=True):
    """A folder for ``path=`` whose .pth files are run at start, as those of site-packages are."""
    write(folder / 'sitecustomize.py', f'import site; site.addsitedir({str(folder)!r})')
    shutil.copy(ROOT / PTH, folder)
    if with_hook:
        shutil.copy(ROOT / 'kernelfusion_hook.py', folder)
    return folder


def toy_options(folder, name='toy', images=2, **changes):
    """An option file of a few seconds' work: ``images`` LR pictures of 18 x 16 without ground truth."""
    rng = np.random.default_rng(0)
    (folder / 'lq').mkdir(parents=True, exist_ok=True)
    for number in range(images):
        Image.fromarray(rng.integers(0, 256, (18, 16, 3), dtype=np.uint8)).save(folder / 'lq' / f'{number}.png')
    opt = {
        'name': name, 'model_type': 'KernelFusionModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {'test': {'name': 'Toy', 'type': 'SingleImageDataset', 'dataroot_lq': str(folder / 'lq'),
                              'io_backend': {'type': 'disk'}}},
        'kernelfusion': {'preset': 'quick', 'prior': {'channels': 4, 'steps': 1, 'batch': 1}, 'sheet': False,
                         'plot': False,
                         'em': {'sketch_passes': 1, 'coarse_passes': 1, 'fine_passes': 1, 'uncertainty': 0, 'steps': 1,
                                'kernel_levels': 1, 'final_samples': 1, 'final_steps': 1, 'final_prior': 'both',
                                'cg_iterations': 1}},
        'network_g': {'type': 'PatchDiffusion'}, 'path': {}, 'val': {'save_img': True},
    }
    opt.update(changes)
    return write(folder / f'{name}.yml', yaml.safe_dump(opt))
