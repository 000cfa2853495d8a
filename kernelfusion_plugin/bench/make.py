"""Makes a data set from a recipe.

Writes ROOT/HR, ROOT/LRx4 (or a folder ROOT/LRx4/KERNEL for each kernel), ROOT/kernels, ROOT/options.yml (to run it),
ROOT/manifest.json and ROOT/kernels.png (for viewing). ROOT appears only when everything is done.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..core.degradation import BORDERS, synthesise
from ..files import ENDINGS, as_saved, pictures_in, read_rgb8
from ..pictures import save_kernel_grid
from ..report import environment, save_array, write_summary
from ..true_kernels import kernel_stem
from . import kernelgan
from .datasets import Recipe, Setting, Sources, first_twins, generator
from .options_file import write_options
from .storage import Folders, Lmdbs, digest

FORMAT = 1
MANIFEST = 'manifest.json'

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One LR image with its ground truth: pictures uint8 (H, W, 3), kernel (K, K) float32 as in its file."""

    image: str
    kernel_name: str
    hr: np.ndarray
    lr: np.ndarray
    kernel: np.ndarray


def make_dataset(recipe: Recipe, setting: Setting, sources: Sources, out: Path, lmdb: bool = False) -> dict[str, Any]:
    """Make the data set in ``out`` and return its manifest. Pictures that cannot be used are logged and skipped.

    Raises:
        ValueError: a setting is not valid for the recipe, pictures or kernels are missing, or ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f'{out} is not empty: remove it or give another --out')
    paths = check(recipe, setting, sources)
    if lmdb and any('.' in name for name in paths):
        raise ValueError('--lmdb: BasicSR ends LMDB keys at the first dot, but a picture has one in its name')
    kernels = recipe.kernel_set(setting.scale, sources) if recipe.kernel_set else {}
    work = out.with_name(f'.{out.name}.unfinished')
    shutil.rmtree(work, ignore_errors=True)
    storage = Lmdbs(work) if lmdb else Folders(work)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for name, path in tqdm(paths.items(), setting.name, unit=' pictures', mininterval=1):
        try:
            found = list(cases(name, path, recipe, setting, kernels))
        except ValueError as error:
            log.error(f'{error}. The picture is skipped')
            failed.append(name)
            continue
        rows += [_keep(case, recipe, setting, storage, work, first=number == 0) for number, case in enumerate(found)]
    storage.close()
    manifest = {'format': FORMAT, 'dataset': setting.name, 'recipe': recipe.name,
                'setting': dataclasses.asdict(setting), 'lmdb': lmdb, 'failed': failed,
                'whole_recipe': not failed and not setting.images and not setting.piece, 'images': rows,
                **environment(torch.device('cpu'))}
    if rows:
        write_options(work, out, manifest, recipe, storage)
        write_summary(work / MANIFEST, manifest)
        save_kernel_grid(work / 'kernels.png', {Path(row['kernel_file']).stem: np.load(work / row['kernel_file'])
                                                for row in rows})
        work.replace(out)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def check(recipe: Recipe, setting: Setting, sources: Sources) -> dict[str, Path]:
    """The pictures by name, sorted; checks everything that can be checked before the work.

    Raises:
        ValueError: see :func:`make_dataset`.
    """
    if setting.scale not in recipe.scales:
        raise ValueError(f'{recipe.name} is made at --scale {", ".join(map(str, recipe.scales))}, got {setting.scale}')
    if setting.border is not None and (recipe.forward != 'conv' or setting.border not in BORDERS[1:]):
        raise ValueError(f'--border {setting.border!r} is not for {recipe.name}; borders are {", ".join(BORDERS[1:])}, '
                         "and DIV2KRK's is fixed")
    if recipe.name != 'free' and (setting.name != recipe.name or sources.kernels or setting.each):
        raise ValueError(f'{recipe.name} has fixed name and kernels: --name, --kernels and --each are for free only')
    if recipe.name == 'free' and setting.name in {'DIV2KFK', 'Blind144', 'DIV2KRK'}:
        raise ValueError(f'--name: {setting.name} is the name of a published data set: choose another')
    found = pictures(sources.hr)
    if pair := first_twins(found, lambda path: path.stem):
        raise ValueError(f'{sources.hr}: two pictures have the same name except for the extension: '
                         f'{pair[0].name}, {pair[1].name}')
    there = {path.stem: path for path in found}
    names = sorted(set(setting.images or recipe.images or there))
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f'{sources.hr}: {len(missing)} of {len(names)} pictures are missing: '
                         f'{", ".join(missing[:5])}{" …" if len(missing) > 5 else ""}; --image chooses others, '
                         'by name without extension')
    if not names:
        raise ValueError(f'{sources.hr}: no pictures ({", ".join(ENDINGS)})')
    if pair := first_twins(names, lambda name: kernel_stem(recipe.kernel_tmpl, name)):
        raise ValueError(f'--image: the names {pair[0]} and {pair[1]} have the same number, or none, by which '
                         f'{recipe.name} names its kernels')
    return {name: there[name] for name in names}


def pictures(folder: Path) -> list[Path]:
    """Picture files in a folder; ValueError if it does not exist."""
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder of HR pictures')
    return [path for path in pictures_in(folder) if path.is_file()]


def cases(name: str, path: Path, recipe: Recipe, setting: Setting, kernels: Mapping[str, Tensor]) -> Iterator[Case]:
    """Yield all LR images of one HR picture.

    Raises:
        ValueError: the picture cannot be read or is too small.
    """
    hr = read_hr(path, recipe.multiple or setting.scale, setting)
    if recipe.draw is not None:
        chosen = {name: recipe.draw(setting.scale, generator(setting.seed, name, 'kernel'))}
    elif recipe.each or setting.each:
        chosen = kernels
    else:
        random = generator(setting.seed, name, 'choice')
        kernel_name = list(kernels)[int(torch.randint(len(kernels), (), generator=random))]
        chosen = {kernel_name: kernels[kernel_name]}
    for kernel_name, k in chosen.items():
        lr = degrade(hr, k, recipe, setting, f'{name}/{kernel_name}')
        yield Case(name, kernel_name, *_piece(hr, lr, setting), k.numpy())


def read_hr(path: Path, multiple: int, setting: Setting) -> np.ndarray:
    """uint8 RGB (H, W, 3), cropped to multiples of ``multiple``, keeping the top left."""
    pixels = read_rgb8(path)
    height, width = (n // multiple * multiple for n in pixels.shape[:2])
    least = max(multiple, setting.piece)
    if min(height, width) < least:
        raise ValueError(f'{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), but at least '
                         f'{least} x {least} are needed{" (--piece)" if setting.piece == least else ""}')
    return pixels[:height, :width]


def degrade(hr: np.ndarray, k: Tensor, recipe: Recipe, setting: Setting, name: str) -> np.ndarray:
    """The LR picture: blur and reduction, noise, 8 bits, JPEG, in this order. ``name`` seeds the noise."""
    x = torch.from_numpy(np.ascontiguousarray(hr)).permute(2, 0, 1)[None]
    if recipe.forward == 'kernelgan':
        y = kernelgan.downscale(x, k, setting.scale)
        if setting.noise:
            y = y + _noise(y.shape, setting, name)
    else:
        shape = (1, 3, *(n // setting.scale for n in x.shape[-2:]))
        noise = _noise(shape, setting, name) if setting.noise else None
        y = synthesise(x, k, setting.scale, setting.border or recipe.border, noise)
    return as_saved(y[0], setting.jpeg)


def _noise(shape: tuple[int, ...], setting: Setting, name: str) -> Tensor:
    return setting.noise * torch.randn(shape, generator=generator(setting.seed, name, 'noise'))


def _piece(hr: np.ndarray, lr: np.ndarray, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Crop both to the central square, after degradation, so that the blur includes the surroundings."""
    if not setting.piece:
        return hr, lr
    s, side = setting.scale, setting.piece // setting.scale
    top, left = ((n - side) // 2 for n in lr.shape[:2])
    return (hr[s * top:s * (top + side), s * left:s * (left + side)], lr[top:top + side, left:left + side])


def _keep(case: Case, recipe: Recipe, setting: Setting, storage: Folders | Lmdbs, out: Path,
          first: bool) -> dict[str, Any]:
    """Write a case and return its row of the manifest; writes the HR picture only with its ``first`` case."""
    subset = case.kernel_name if recipe.each or setting.each else ''
    lr_place = f'LRx{setting.scale}' + (f'/{subset}' if subset else '')
    stem = subset or kernel_stem(recipe.kernel_tmpl, case.image)
    if first:
        storage.put('HR', case.image, case.hr)
    storage.put(lr_place, case.image, case.lr)
    save_array(out / 'kernels' / f'{stem}.npy', case.kernel)
    return {'image': case.image, 'kernel': case.kernel_name, 'scale': setting.scale, 'seed': setting.seed,
            'lr_place': lr_place, 'kernel_file': f'kernels/{stem}.npy', 'size': list(case.lr.shape[:2]),
            'kernel_size': len(case.kernel),
            'sha256': {'hr': digest(case.hr), 'lr': digest(case.lr), 'kernel': digest(case.kernel)}}
