"""For the tests of ``kernelfusion compare``: toy data and option files, and methods that need no network."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import yaml
from click.testing import CliRunner
from glue_helpers import TINY_EM, TINY_PRIOR, write_pair
from PIL import Image

from kernelfusion_plugin.bench.compare import runs
from kernelfusion_plugin.cli import main

SWINIR = {'type': 'SwinIR', 'upscale': 4, 'in_chans': 3, 'img_size': 8, 'window_size': 8, 'img_range': 1.0,
          'depths': [1], 'embed_dim': 8, 'num_heads': [2], 'mlp_ratio': 2, 'upsampler': 'pixelshuffledirect'}
EM = {'preset': 'quick', 'prior': TINY_PRIOR, 'em': TINY_EM, 'plot': False, 'sheet': False}


def write_images(root: Path, names=('ape_k1', 'bee_k2', 'cow_k1')) -> Path:
    """HR, LR and kernels of images of 96 x 96; names that end alike share a kernel. Returns the root."""
    for number, name in enumerate(names):
        write_pair(root, name, seed=number)
        first = next(one for one in names if one[-3:] == name[-3:])
        np.save(root / 'kernels' / f'{name}.npy', np.load(root / 'kernels' / f'{first}.npy'))
    return root


def option_file(file: Path, data: Path, name: str | None = None, *, truth: bool = True, **changes) -> Path:
    """A file of a method on that data; KernelFusion if ``changes`` has ``kernelfusion``, else a tiny SwinIR."""
    dataset = {'name': 'Toy', 'type': 'PairedImageDataset' if truth else 'SingleImageDataset',
               'dataroot_lq': str(data / 'lr'), 'dataroot_kernel': str(data / 'kernels'),
               'io_backend': {'type': 'disk'}}
    dataset |= {'dataroot_gt': str(data / 'hr')} if truth else {}
    ours = 'kernelfusion' in changes
    opt = {'name': name or file.stem, 'model_type': 'KernelFusionModel' if ours else 'SwinIRModel', 'scale': 4,
           'num_gpu': 0, 'manual_seed': 0, 'datasets': {'test_1': dataset},
           'network_g': {'type': 'PatchDiffusion'} if ours else SWINIR}
    file.write_text(yaml.safe_dump(opt | changes, sort_keys=False, allow_unicode=True))
    return file


class Methods:
    """Stands in for the processes: method NAME writes what ``effects[NAME]`` makes of an HR picture.

    Attributes:
        started: names, in the order in which they were started.
    """

    def __init__(self, monkeypatch, **effects):
        self.effects, self.started = effects, []
        monkeypatch.setattr(runs, '_start', self.start)

    def start(self, method, root):
        self.started.append(method.opt['name'])
        effect, (dataset,) = self.effects[method.opt['name']], method.opt['datasets'].values()
        folder = root / method.slug / 'visualization' / dataset['name']
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(effect, str):  # a failure: what the log says
            (root / f'{method.slug}.log').write_text(effect)
            return 1
        for path in sorted(Path(dataset['dataroot_gt']).iterdir()):
            picture = effect(np.array(Image.open(path)), path.stem)
            if picture is not None:
                Image.fromarray(picture).save(folder / f'{path.stem}_{method.suffix}.png')
        return 0


def noise(sigma: float, seed: int = 0):
    """An effect: white noise of that standard deviation, in levels."""
    def effect(hr, name):
        drawn = np.random.default_rng([seed, *os.fsencode(name)]).normal(0, sigma, hr.shape)
        return (hr + drawn).round().clip(0, 255).astype(np.uint8)
    return effect


def compare(*arguments):
    """Call the command in this process."""
    return CliRunner().invoke(main, ['compare', *map(str, arguments)])


def rows(out: Path, name: str = 'images.csv') -> list[dict[str, str]]:
    """A table that was written."""
    with open(out / name, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def page_data(out: Path) -> dict:
    """What the page was filled with, read as a browser does: up to the first end of a script element."""
    text = (out / 'comparison.html').read_text(encoding='utf-8')
    return json.loads(text.partition('id="data">')[2].partition('</script')[0])
