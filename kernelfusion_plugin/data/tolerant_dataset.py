"""``TolerantPairedDataset``: PairedImageDataset for folders in which some pictures have no partner."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import scandir

from ..listing import without_others


class TolerantPairedDataset(PairedImageDataset):
    """BasicSR's PairedImageDataset, with the same options and the same result where every picture has its partner.

    Where that one would refuse two folders (or LMDBs) that do not match, this one pairs what can be paired. What is
    left over keeps its place with a ``fault`` in ``paths``, one line with the file: reading it raises that as
    ValueError, and ``KernelFusionModel`` reports it and does the others. So do pictures of a folder whose names differ
    in the ending only: which of them is meant, nobody can tell.

    Files of a folder that are no pictures by their ending are left out, see :mod:`..listing`.

    Several data sets of a run may share an LMDB, such as Blind144's HR images: it is opened once.
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
        """Pair the pictures of the two folders, unless BasicSR has ``matched`` them, and all of them are distinct."""
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
    """In place of BasicSR's FileClient for LMDBs, which opens each anew; py-lmdb allows that once in a process.

    Args:
        folders: LMDB by role.
    """

    _environments: ClassVar[dict[tuple[int, str], Any]] = {}  # by process, since a fork must open its own

    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = dict(folders)

    def get(self, filepath: str, client_key: str = 'default') -> bytes | None:
        """The value of key ``filepath`` in the LMDB of role ``client_key``."""
        import lmdb
        place = os.getpid(), os.path.realpath(self.folders[client_key])
        if place not in self._environments:
            self._environments[place] = lmdb.open(place[1], readonly=True, lock=False, readahead=False)
        with self._environments[place].begin() as transaction:
            return transaction.get(filepath.encode())


def pair_by_name(lq: Mapping[str, Sequence[str]], gt: Mapping[str, Sequence[str]], lq_folder: str, gt_folder: str,
                 template: str = '{}') -> list[dict[str, str]]:
    """Pair LR and HR pictures by name; what has no partner, or of which there are several, comes with a ``fault``.

    Args:
        lq, gt: paths (or the LMDB key) by name without ending.
        lq_folder, gt_folder: where they are, for the message.
        template: LR name made of the HR name.

    Returns:
        ``lq_path``, ``gt_path`` and perhaps ``fault``, sorted by LR name; a lone picture stands in for both.
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
            fault = f'two pictures bear the same name, but for its ending: {", ".join(twins)}'
        elif not low or not high:
            missing, folder = ('LR', lq_folder) if high else ('HR', gt_folder)
            fault = f'there is no {missing} image to it in {folder}'
        pairs += [{'lq_path': path, 'gt_path': high[0] if high else path,
                   **({'fault': f'{path}: {fault}'} if fault else {})} for path in low or high]
    return pairs


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by name without folder and ending."""
    names: dict[str, list[str]] = {}
    for path in sorted(paths):
        names.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
    return names


def lmdb_keys(folder: str) -> dict[str, list[str]]:
    """Keys of an LMDB by themselves; as BasicSR writes them, up to the first dot of the name."""
    with open(os.path.join(folder, 'meta_info.txt'), encoding='utf-8') as file:
        keys = [line.split('.')[0] for line in file if line.strip()]
    return {key: [key] for key in keys}
