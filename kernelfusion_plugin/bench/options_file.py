"""Writes the option file of a new data set, for BasicSR's test program."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import yaml

from ..atomic import write_text_atomically
from ..core.config import MAX_KERNEL
from ..core.inputs import grid_for
from .datasets import Recipe, size_on_grid
from .storage import Folders, Lmdbs

log = logging.getLogger(__name__)
HEAD = """# {name}, made by kernelfusion make-dataset.
#
#   {command}
#
# Other methods on the same data: --force_yml model_type=BicubicModel, or BackProjectionModel (true kernels).
# All keys are explained in options/kernelfusion_div2kfk.yml of the repository.

"""


def command_for(out: Path) -> str:
    """The command that restores the data set in ``out``."""
    return f'python basicsr/test.py -opt {shlex.quote((out / "options.yml").as_posix())}'


def write_options(folder: Path, out: Path, manifest: dict[str, Any], recipe: Recipe,
                  storage: Folders | Lmdbs) -> None:
    """Write FOLDER/options.yml. Folders are given as ``out`` is, so relative ones refer to the run's working folder.

    If our solver will refuse the data set, a warning is logged; other models can use it all the same.
    """
    name, scale = manifest['dataset'], manifest['setting']['scale']
    size = max(row['kernel_size'] for row in manifest['images'])
    if recipe.forward == 'kernelgan':  # LR pixels on the bicubic grid, whatever the file's size
        size = size_on_grid(size, scale)
    section: dict[str, Any] = {'preset': 'balanced', 'solver': 'em'}
    size = grid_for(size, scale)
    if size != 6 * scale:
        section['kernel_size'] = size
    options = {
        'name': f'kernelfusion_{name}', 'model_type': 'KernelFusionModel', 'scale': scale, 'num_gpu': 'auto',
        'manual_seed': 0, 'datasets': _datasets(out, manifest, recipe, storage),
        'network_g': {'type': 'PatchDiffusion'}, 'kernelfusion': section, 'path': {},
        'val': {'save_img': True, 'metrics': {measure: {'type': f'calculate_{measure}_border', 'border': 0.05}
                                              for measure in ('psnr', 'ssim')}}}
    head = HEAD.format(name=name, command=command_for(out))
    text = head + yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    write_text_atomically(folder / 'options.yml', text)
    if size > MAX_KERNEL:
        log.warning(f'{out / "options.yml"}: KernelFusionModel will refuse it: kernels of {size} x {size} are larger '
                    f'than {MAX_KERNEL} x {MAX_KERNEL}. Other models can use this data set')


def _datasets(out: Path, manifest: dict[str, Any], recipe: Recipe, storage: Folders | Lmdbs) -> dict[str, Any]:
    """A BasicSR data set for every folder of LR images."""
    backend = 'lmdb' if isinstance(storage, Lmdbs) else 'disk'
    places = {row['lr_place']: row['kernel_file'] for row in manifest['images']}
    datasets = {}
    for number, (place, kernel_file) in enumerate(sorted(places.items())):
        subset = place.partition('/')[2]
        datasets[f'test_{number:02d}'] = {
            'name': manifest['dataset'] + (f'_{subset}' if subset else ''), 'type': 'TolerantPairedDataset',
            'dataroot_gt': (out / storage.path('HR')).as_posix(),
            'dataroot_lq': (out / storage.path(place)).as_posix(),
            'dataroot_kernel': (out / (kernel_file if subset else 'kernels')).as_posix(),
            **({} if subset else {'kernel_tmpl': recipe.kernel_tmpl}), 'io_backend': {'type': backend}}
    return datasets
