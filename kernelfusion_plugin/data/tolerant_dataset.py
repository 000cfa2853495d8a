"""``TolerantPairedDataset``: PairedImageDataset for folders in which some pictures are unpaired."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import scandir

from ..listing import without_others


class TolerantPairedDataset(PairedImageDataset):
    """BasicSR's PairedImageDataset, with the same options, and the same result if every picture has a partner.

    While PairedImageDataset refuses two folders (or LMDBs) that do not match, this one pairs what it can. An unpaired
    picture stays in ``paths`` with a ``fault``, one line that names the file: reading it raises this as ValueError,
    which ``KernelFusionModel`` reports before it goes on. The same holds for pictures in a folder whose names differ
    only in the extension, as it is unclear which is meant.

    Files that are not pictures by extension are skipped, see :mod:`..listing`.

    Several data sets of a run may share an LMDB, such as Blind144's HR images; it is opened only once.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        matched = True
        try:
            super().__init__(opt)
        except (AssertionError, ValueError):
            if opt.get('meta_info_file') is not None:
                raise
            matched = False
        folders = self.lq_folder, self.gt_folder
        if self.io_backend_opt['type'] == 'lmdb':
            if not matched:
                self.paths = pair_by_name(*map(lmdb_keys, folders), *folders)
        elif opt.get('meta_info_file') is None:
            self._pair_files(matched)

    def _pair_files(self, matched: bool) -> None:
        """Pair the pictures of the two folders, unless BasicSR has ``matched`` them and all names are distinct."""
        listed = [list(scandir(folder, full_path=True)) for folder in (self.lq_folder, self.gt_folder)]
        found = [*listed[0], *listed[1]]
        kept = set(without_others(self.opt.get('name') or 'data set', found))
        lq, gt = (_by_name(path for path in paths if path in kept) for paths in listed)
        distinct = all(len(paths) == 1 for paths in (*lq.values(), *gt.values()))
        if not (matched and distinct and len(kept) == len(found)):
            self.paths = pair_by_name(lq, gt, self.lq_folder, self.gt_folder, self.filename_tmpl)

    def __getitem__(self, index: int) -> dict[str, Any]:
        fault = self.paths[index].get('fault')
        if fault:
            raise ValueError(fault)
        if self.file_client is None and self.io_backend_opt['type'] == 'lmdb':
            self.file_client = SharedLmdb({'lq': self.lq_folder, 'gt': self.gt_folder})
        return super().__getitem__(index)


class SharedLmdb:
    """Replaces BasicSR's FileClient for LMDBs, which opens an LMDB again; py-lmdb allows that only once per process.

    Args:
        folders: LMDB folder by role.
    """

    _opened: ClassVar[dict[str, tuple[int, Any]]] = {}  # process and environment by folder

    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = dict(folders)

    def get(self, filepath: str, client_key: str = 'default') -> bytes | None:
        """Value of the key ``filepath`` in the LMDB with the role ``client_key``."""
        with self._environment(os.path.realpath(self.folders[client_key])).begin() as transaction:
            return transaction.get(filepath.encode())

    def _environment(self, folder: str) -> Any:  # noqa: ANN401
        import lmdb
        process, environment = self._opened.get(folder, (None, None))
        if process == os.getpid():
            return environment
        if environment is not None:
            environment.close()  # the copy that this forked process has of its parent's; LMDB refuses a second one
        environment = lmdb.open(folder, readonly=True, lock=False, readahead=False)
        self._opened[folder] = os.getpid(), environment
        return environment


def pair_by_name(lq: Mapping[str, Sequence[str]], gt: Mapping[str, Sequence[str]], lq_folder: str, gt_folder: str,
                 template: str = '{}') -> list[dict[str, str]]:
    """Pair LR and HR pictures by name; unpaired and ambiguous ones get a ``fault``.

    Args:
        lq, gt: paths (or LMDB keys) by name without extension.
        lq_folder, gt_folder: their folders, for messages.
        template: LR name as a function of the HR name.

    Returns:
        ``lq_path``, ``gt_path`` and perhaps ``fault``, sorted by LR name; an unpaired picture is given for both.
    """
    partners: dict[str, list[str]] = {}
    for name, paths in gt.items():
        partners.setdefault(template.format(name), []).extend(paths)
    pairs = []
    for name in sorted(lq.keys() | partners.keys()):
        low, high = lq.get(name, ()), partners.get(name, ())
        twins = next((paths for paths in (low, high) if len(paths) > 1), ())
        fault = ''
        if twins:
            fault = f'two pictures have the same name except for the extension: {", ".join(twins)}'
        elif not low or not high:
            missing, folder = ('LR', lq_folder) if high else ('HR', gt_folder)
            fault = f'it has no {missing} image in {folder}'
        pairs += [{'lq_path': path, 'gt_path': high[0] if high else path,
                   **({'fault': f'{path}: {fault}'} if fault else {})} for path in low or high]
    return pairs


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by name without folder and extension."""
    names: dict[str, list[str]] = {}
    for path in sorted(paths):
        names.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
    return names


def lmdb_keys(folder: str) -> dict[str, list[str]]:
    """The keys of an LMDB, each mapped to itself in a list; BasicSR ends keys at the first dot of the file name."""
    with open(os.path.join(folder, 'meta_info.txt'), encoding='utf-8') as file:
        keys = [line.split('.')[0] for line in file if line.strip()]
    return {key: [key] for key in keys}
