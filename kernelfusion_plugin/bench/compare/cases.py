"""Finds the pictures on which the methods are compared, through the data sets in their option files.

Folders, LMDBs, lists of files, or whatever a registered data set reads; true kernels as in ``KernelFusionModel``. Also
checks, before the work, that all methods get the same pictures.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import report
from ...core.kernel_files import load_kernel
from ...entries import BadImage, Entry, entries
from ...option_checks import SECTIONS
from ...true_kernels import find_kernel, kernel_place
from .methods import Method

Key = tuple[str, str]  # data set, image


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        key: data set and image, as named by the first method.
        entries: where it can be read; ground truth comes from the first entry that has it.
        scale: s.
        kernel: the true kernel (K, K), if known.
        kernel_name: common name for all pictures with that kernel; '' if unknown.
    """

    key: Key
    entries: tuple[Entry, ...]
    scale: int
    kernel: np.ndarray | None = None
    kernel_name: str = ''

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read LQ (h, w, 3) and, if there is one, ground truth (s·h, s·w, 3), uint8 RGB.

        Raises:
            BadImage: no entry can be read; one line that names the file.
        """
        data, faults = {}, []
        for entry in self.entries:
            try:
                read = entry.read(self.scale, crop_gt=True)
            except BadImage as error:
                faults.append(error)
                continue
            data = read if 'gt' in read or not data else data
            if 'gt' in data:
                break
        if not data:
            raise faults[0]
        lq, gt = (report.to_picture(data[role].float() * 2 - 1) if role in data else None for role in ('lq', 'gt'))
        return lq, gt


@dataclass(frozen=True)
class Data:
    """All cases, and where each method saves its pictures of them.

    Attributes:
        cases: by data set, in the order in which they first occur, then by name.
        folders: by method and case, the data set's name in the method's own options; without cases that are not in the
            method's data.
    """

    cases: dict[Key, Case]
    folders: dict[tuple[str, Key], str]


def gather(methods: Sequence[Method]) -> Data:
    """The union of the images in the option files, with ground truth and kernel from the first that has them.

    Images are matched by data set and name. If all files have a single data set, its name may differ.

    Raises:
        ValueError: a data set or a true kernel cannot be read, or two methods have different pictures of the same name.
    """
    cases: dict[Key, Case] = {}
    folders: dict[tuple[str, Key], str] = {}
    for method in methods:
        datasets = list(_datasets(method))
        known = {key[0] for key in cases}
        for dataset in datasets:
            name = str(dataset.opt['name'])
            title = next(iter(known)) if name not in known and len(known) == 1 == len(datasets) else name
            for case in _cases(method, dataset, title):
                cases[case.key] = _joined(cases[case.key], case, method) if case.key in cases else case
                folders[method.label, case.key] = name
    if not cases:
        raise ValueError(f'{", ".join(str(method.file) for method in methods)}: no images in their data sets')
    return Data(_with_kernel_names(_in_order(cases)), folders)


def _in_order(cases: dict[Key, Case]) -> dict[Key, Case]:
    """Sort by name within each data set, numbers by value; BasicSR's order is that of the file system."""
    place = {name: number for number, name in enumerate(dict.fromkeys(key[0] for key in cases))}

    def order(key: Key) -> tuple:
        parts = re.split(r'(\d+)', key[1])
        return place[key[0]], [int(part) if number % 2 else part for number, part in enumerate(parts)], key[1]
    return {key: cases[key] for key in sorted(cases, key=order)}


def _datasets(method: Method) -> Iterator[Any]:
    from basicsr.data import build_dataset as _  # noqa: F401  (registers BasicSR's data sets)
    from basicsr.utils.registry import DATASET_REGISTRY
    for key, options in sorted(method.opt['datasets'].items()):
        options = copy.deepcopy(options)  # PairedImageDataset removes keys from it
        options |= {'phase': 'test', 'scale': _scale(method)}  # in phase train, images would be cropped at random
        options.setdefault('name', key)
        where = f'{method.file}: data set {options["name"]}'
        if options.get('type') not in DATASET_REGISTRY:
            raise ValueError(f'{where}: unknown data set type {options.get("type")!r}')
        try:
            yield DATASET_REGISTRY.get(options['type'])(options)
        except Exception as error:  # noqa: BLE001  (data sets raise anything: AssertionError, KeyError, lmdb.Error, …)
            reason = ' '.join(str(error).split()) or 'it failed'
            raise ValueError(f'{where} cannot be read: {type(error).__name__}: {reason}') from error


def _cases(method: Method, dataset: Any, title: str) -> Iterator[Case]:  # noqa: ANN401
    section = next((s for name in SECTIONS if (s := method.opt.get(name) or {}).get('kernel_dir')), {})
    place, template = kernel_place(dataset.opt, section)
    for entry in entries(dataset):
        file = find_kernel(str(place), template, entry.kernel_name) if place else None
        case = Case((title, entry.name), (entry,), _scale(method))
        yield case if file is None else replace(case, kernel=load_kernel(file).numpy(), kernel_name=file.stem)


def _joined(first: Case, other: Case, method: Method) -> Case:
    """Merge the cases of the same image in two methods' data."""
    mine = other.entries[0]
    if any(_source(mine) == _source(entry) for entry in first.entries):
        joined = first
    else:
        _check_same(first, other, method)
        joined = replace(first, entries=(*first.entries, mine))
    if joined.kernel is None:
        return replace(joined, kernel=other.kernel, kernel_name=other.kernel_name)
    if other.kernel is not None and not _alike(joined.kernel, other.kernel):
        raise ValueError(f'{method.file}: the true kernel of {mine.name} differs from that in earlier option files')
    return joined


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two kernels are equal up to rounding by the file format."""
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-4 * a.max())


def _source(entry: Entry) -> tuple[str, str]:
    return entry.path, str(getattr(entry.dataset, 'gt_folder', None))


def _check_same(first: Case, other: Case, method: Method) -> None:
    try:
        pairs = list(zip(first.read(), replace(other, scale=first.scale).read()))
    except BadImage:
        return  # reported when it is scored
    for role, (a, b) in zip(('LR', 'HR'), pairs):
        if a is not None and b is not None and not np.array_equal(a, b):
            raise ValueError(f'{method.file}: the {role} picture of {other.entries[0].path} differs from '
                             f'{first.entries[0].path}: methods must be compared on the same data')


def _with_kernel_names(cases: dict[Key, Case]) -> dict[Key, Case]:
    """Give equal kernels a common name: the common ending of their images' names (_k05), their file's, or a number."""
    groups: dict[bytes, list[Case]] = {}
    for case in cases.values():
        if case.kernel is not None:
            groups.setdefault(case.kernel.tobytes(), []).append(case)
    names: dict[bytes, str] = {}
    for number, (kernel, group) in enumerate(groups.items(), 1):
        files = {case.kernel_name for case in group}
        endings = {match[1] if (match := re.search(r'_(k_?\d+)$', case.key[1])) else '' for case in group}
        name = next((one.copy().pop() for one in (endings, files) if len(one) == 1 and '' not in one), '')
        names[kernel] = f'kernel {number}' if not name or name in names.values() else name
    return {key: case if case.kernel is None else replace(case, kernel_name=names[case.kernel.tobytes()])
            for key, case in cases.items()}


def _scale(method: Method) -> int:
    scale = method.opt.get('scale', 1)
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f'{method.file}: scale must be a whole number, got {scale!r}')
    return scale
