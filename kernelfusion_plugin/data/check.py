"""Checks a data set's section of an option file before BasicSR builds it, for faults that are certain.

Only for BasicSR's two picture data sets and our own; other data sets may read any key.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils import FileClient, scandir
from basicsr.utils.registry import DATASET_REGISTRY

from ..core.sections import must_be, nearest
from ..files import may_be_picture
from ..listing import no_pictures
from .random_blur_dataset import TOOLBOX_KEYS, BlurOptions, RandomBlurDataset
from .tolerant_dataset import TolerantPairedDataset, lmdb_keys

PAIRED = (PairedImageDataset, TolerantPairedDataset)
_SINGLE_KEYS = (TOOLBOX_KEYS - {'dataroot_gt'}) | {'dataroot_lq', 'scale', 'mean', 'std', 'color'}
_PAIRED_KEYS = _SINGLE_KEYS | {'dataroot_gt', 'filename_tmpl', 'gt_size', 'use_hflip', 'use_rot'}
KEYS = {SingleImageDataset: _SINGLE_KEYS, **dict.fromkeys(PAIRED, _PAIRED_KEYS),
        RandomBlurDataset: TOOLBOX_KEYS | {field.name for field in dataclasses.fields(BlurOptions)}}
ROOTS = {SingleImageDataset: ('dataroot_lq',), **dict.fromkeys(PAIRED, ('dataroot_gt', 'dataroot_lq')),
         RandomBlurDataset: ('dataroot_gt',)}
TRAINING = ('batch_size_per_gpu', 'num_worker_per_gpu')


def check_section(key: str, options: Mapping[str, Any], scale: int | None) -> None:
    """Check the section ``datasets:key``, of a registered type, for faults on which a run would surely fail.

    Args:
        scale: the run's scale, which BasicSR passes to each data set.

    Raises:
        ValueError: an option is probably misspelt, is missing, or has an invalid value; one line.
    """
    where, phase = f'datasets:{key}', key.partition('_')[0]
    kind = DATASET_REGISTRY.get(options['type'])
    if kind not in KEYS:
        return  # not BasicSR's or ours
    _check_keys(where, kind, options)
    _check_needed(where, kind, options, phase)
    template = options.get('kernel_tmpl')
    if template is not None and not isinstance(template, str):
        raise ValueError(must_be(f'{where}:kernel_tmpl', str, template))
    backend = _backend(where, options.get('io_backend') or {'type': 'disk'})
    for root in ROOTS[kind]:
        _check_root(f'{where}:{root}', options[root], backend)
    listed = backend != 'lmdb' and _is_listed(where, kind, options)
    if kind in PAIRED:
        _check_template(where, options)
        if backend in ('disk', 'lmdb') and not listed:
            _check_partners(where, kind, options, backend)
    if kind is RandomBlurDataset:
        given = {} if scale is None else {'scale': scale}
        RandomBlurDataset.read_options({**options, **given, 'phase': phase}, where)


def may_have_kernels(options: Mapping[str, Any]) -> bool:
    """Whether a data set may have true kernels, from files or its own. Unknown data sets may."""
    without = {kind.__name__ for kind in (SingleImageDataset, *PAIRED)}
    return bool(options.get('dataroot_kernel')) or options.get('type') not in without


def _check_keys(where: str, kind: type, options: Mapping[str, Any]) -> None:
    """Refuse keys that resemble a known one. Others, and keys of another data set, may be meant for something else."""
    for key in options:
        misspelt = not any(key in known for known in KEYS.values())
        if misspelt and difflib.get_close_matches(str(key), KEYS[kind], n=1, cutoff=0.8):
            raise ValueError(f'{where}: unknown option {key!r} of {kind.__name__}{nearest(str(key), KEYS[kind])}')


def _check_needed(where: str, kind: type, options: Mapping[str, Any], phase: str) -> None:
    needed = ROOTS[kind] + (() if kind is RandomBlurDataset else ('io_backend',))
    if phase == 'train':
        needed += TRAINING + (('gt_size', 'use_hflip', 'use_rot') if kind in PAIRED else ())
    missing = [name for name in needed if options.get(name) is None]
    if missing:
        hint = ' (io_backend: {type: disk} reads folders)' if 'io_backend' in missing else ''
        raise ValueError(f'{where}: {", ".join(missing)} must be given{hint}')


def _backend(where: str, options: Any) -> str:  # noqa: ANN401
    """The type of ``io_backend``."""
    where, known = f'{where}:io_backend', FileClient._backends  # to which others may add theirs
    if not isinstance(options, Mapping) or not isinstance(options.get('type'), str):
        raise ValueError(f'{where} must be a section with a type, such as {{type: disk}}, got {options!r}')
    kind = options['type']
    if kind not in known:
        raise ValueError(f'{where}: unknown type {kind!r}{nearest(kind, known)}')
    if kind == 'disk' and len(options) > 1:
        raise ValueError(f'{where}: disk takes no options besides type: remove '
                         f'{", ".join(str(name) for name in options if name != "type")}')
    return kind


def _check_root(where: str, place: Any, backend: str) -> None:  # noqa: ANN401
    if not isinstance(place, str):
        raise ValueError(f'{where} must be the path of a folder or LMDB, got {place!r}')
    path = Path(place).expanduser()
    if backend == 'lmdb' and not place.endswith('.lmdb'):
        raise ValueError(f'{where}: the name of an LMDB must end in .lmdb, got {place}; for a folder of pictures '
                         'use io_backend: {type: disk}')
    if backend == 'lmdb' and not (path / 'meta_info.txt').is_file():
        raise ValueError(f"{where}: {place} has no meta_info.txt: create the LMDB with BasicSR's lmdb_util, or "
                         'make-dataset --lmdb')
    if backend == 'disk' and not path.is_dir():
        raise ValueError(f'{where}: {place} is not a folder')
    if backend == 'disk' and path.suffix == '.lmdb' and (path / 'data.mdb').is_file():
        raise ValueError(f'{where}: {place} is an LMDB: use io_backend: {{type: lmdb}}')


def _is_listed(where: str, kind: type, options: Mapping[str, Any]) -> bool:
    """Whether a list (``meta_info_file``) names the pictures; SingleImageDataset would even open ``~``."""
    file = options.get('meta_info_file')
    if file is None and not (kind is SingleImageDataset and 'meta_info_file' in options):
        return False
    if not isinstance(file, str) or not Path(file).is_file():
        raise ValueError(f'{where}:meta_info_file must be a file that lists pictures, but there is no {file!r}')
    return True


def _check_template(where: str, options: Mapping[str, Any]) -> None:
    template = options.get('filename_tmpl', '{}')
    try:
        template.format('name')
    except (AttributeError, LookupError, ValueError) as error:
        raise ValueError(f"{where}:filename_tmpl must be like '{{}}x4', where {{}} is the name of the HR picture, "
                         f'got {template!r}') from error


def _check_partners(where: str, kind: type, options: Mapping[str, Any], backend: str) -> None:
    """Refuse two folders (or LMDBs) that do not match for BasicSR's data set, or have no pair at all for ours."""
    template = '{}' if backend == 'lmdb' else options.get('filename_tmpl', '{}')
    lq, gt = ([Path(name) for name in (lmdb_keys if backend == 'lmdb' else scandir)(os.path.expanduser(options[root]))]
              for root in ('dataroot_lq', 'dataroot_gt'))
    if kind is PairedImageDataset:
        made = {f'{template.format(path.stem)}{path.suffix}' for path in gt}
        unlike = len(lq) != len(gt) or made != {path.name for path in lq}
        advice = f'; {TolerantPairedDataset.__name__} pairs those that match'
    else:
        lq, gt = ([path for path in paths if may_be_picture(path.name)] for paths in (lq, gt))
        made = {template.format(path.stem) for path in gt}
        unlike, advice = bool(lq or gt) and made.isdisjoint(path.stem for path in lq), ''
    if unlike:
        raise ValueError(f'{where}: {_difference(options, lq, gt, made, template)}{advice}')


def _difference(options: Mapping[str, Any], lq: list[Path], gt: list[Path], made: set[str], template: str) -> str:
    """The difference between two folders: one is empty, the first name without partner, or the number of files."""
    for root, paths in (('dataroot_lq', lq), ('dataroot_gt', gt)):
        if not paths:
            return no_pictures(options[root])
    there = {name for path in lq for name in (path.name, path.stem)}
    absent = next((name for name in sorted(made) if name not in there), None)
    if absent is None:
        return f'there are {len(lq)} files in {options["dataroot_lq"]}, but {len(gt)} in {options["dataroot_gt"]}'
    if template != '{}':
        by = f', expected from an HR name by filename_tmpl {template!r}'
    else:
        by = '' if options['dataroot_lq'].endswith('.lmdb') else ' (if LR names differ, set filename_tmpl)'
    return f'there is no {absent} in {options["dataroot_lq"]}{by}'
