"""Toy data sets, and runs of the real toolbox on them, in this process."""

from __future__ import annotations

import copy
import csv
import hashlib
import logging
import os
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from kernelfusion_plugin import compat

compat.apply()

import basicsr.test  # noqa: E402

from kernelfusion_plugin import options as option_reader  # noqa: E402
from kernelfusion_plugin import runlog  # noqa: E402
from kernelfusion_plugin.core.degradation import Degradation  # noqa: E402
from kernelfusion_plugin.core.kernels import motion  # noqa: E402

TINY_PRIOR = {'steps': 3, 'channels': 8}
TINY_EM = {'sketch_passes': 1, 'coarse_passes': 1, 'fine_passes': 1, 'uncertainty': 0, 'steps': 2,
           'kernel_levels': 1, 'final_samples': 1, 'final_steps': 2, 'final_prior': 'both', 'cg_iterations': 2}
TINY_JOINT = {'n_iter': 1, 'n_iter_first': 1, 'n_steps': 2}


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """A coloured picture with edges, uint8 RGB."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3)).astype(np.uint8)
    return blocks.repeat(12, axis=0).repeat(12, axis=1)[:height, :width]


def write_pair(root: Path, name: str, seed: int, size: tuple[int, int] = (24, 24), scale: int = 4,
               kernel_size: int = 24) -> None:
    """HR, LR and kernel of one image in root/hr, root/lr, root/kernels."""
    hr = texture(size[0] * scale, size[1] * scale, seed)
    k = motion(kernel_size, seed)
    x = torch.from_numpy(hr).permute(2, 0, 1)[None].float()
    y = Degradation(scale, kernel_size, 'reflect').forward(x, k).clamp(0, 255).round()
    for folder, picture in (('hr', hr), ('lr', y[0].permute(1, 2, 0).byte().numpy())):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / folder / f'{name}.png')
    (root / 'kernels').mkdir(exist_ok=True)
    np.save(root / 'kernels' / f'{name}.npy', k.numpy())


def write_levin(path: Path) -> Path:
    """A file like Levin09.mat, with camera shakes of our own of the same sizes."""
    import h5py
    with h5py.File(path, 'w') as file:
        cells = [file.create_dataset(f'#refs#/{number}', data=motion(size, number).numpy().T)
                 for number, size in enumerate((19, 17, 15, 27, 13, 21, 23, 23))]
        file.create_dataset('kernels', data=np.array([[cell.ref] for cell in cells], dtype=h5py.ref_dtype))
    return path


def make_lmdb(source: Path, target: Path) -> None:
    """All pictures of a folder into an LMDB, by BasicSR's own tool."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs
    names = sorted(path.name for path in source.iterdir())
    make_lmdb_from_imgs(str(source), str(target), names, [name.split('.')[0] for name in names],
                        map_size=2 ** 24)


def toy_options(root: Path, **changes: object) -> dict:
    """Options of a toy run on what :func:`write_pair` wrote; ``section__key=value`` changes them."""
    opt = {
        'name': 'toy', 'model_type': 'KernelFusionModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {'test_1': {'name': 'Toy', 'type': 'PairedImageDataset', 'dataroot_gt': str(root / 'hr'),
                                'dataroot_lq': str(root / 'lr'), 'dataroot_kernel': str(root / 'kernels'),
                                'io_backend': {'type': 'disk'}}},
        'network_g': {'type': 'PatchDiffusion'},
        'kernelfusion': {'preset': 'quick', 'prior': dict(TINY_PRIOR), 'em': dict(TINY_EM),
                         'joint': dict(TINY_JOINT), 'plot': False, 'sheet': False},
        'path': {}, 'val': {'save_img': True, 'suffix': None},
    }
    for key, value in changes.items():
        *sections, last = key.split('__')
        section = opt
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return copy.deepcopy(opt)


def run_toolbox(opt: dict, folder: Path, monkeypatch: object, *arguments: str) -> int:
    """``basicsr/test.py -opt …`` in ``folder``; returns the exit status that the process would have."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'toy.yml'
    file.write_text(yaml.safe_dump(opt, sort_keys=False))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['test.py', '-opt', str(file), *arguments])
    monkeypatch.setattr(basicsr.test, 'parse_options',
                        lambda root, is_train: option_reader.parse_options(_ORIGINAL, root, is_train))
    monkeypatch.setattr(option_reader, '_every_run', True)
    runlog.failures.clear()
    compat.register()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        basicsr.test.test_pipeline(os.getcwd())
    except SystemExit as end:
        return int(end.code)
    finally:
        torch.set_num_threads(threads)
    return 0


def scores(folder: Path, name: str = 'toy') -> list[dict[str, str]]:
    """Rows of a run's scores.csv."""
    with open(folder / 'results' / name / 'scores.csv', newline='') as file:
        return list(csv.DictReader(file))


def digests(folder: Path, name: str = 'toy') -> dict[str, str]:
    """sha256 of every file under visualization/, by path."""
    root = folder / 'results' / name / 'visualization'
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob('*')) if path.is_file()}


def toolbox_log() -> logging.Logger:
    """BasicSR's logger, which does not propagate: add ``caplog.handler`` to it."""
    return logging.getLogger('basicsr')


_ORIGINAL = getattr(basicsr.test.parse_options, '__wrapped__', basicsr.test.parse_options)
