"""``TolerantPairedDataset``: PairedImageDataset for folders in which some pictures have no partner."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from basicsr.data.paired_image_dataset import PairedImageDataset


class TolerantPairedDataset(PairedImageDataset):
    """BasicSR's PairedImageDataset, with the same options and the same result where every picture has its partner.

    Where that one would refuse two folders (or LMDBs) that do not match, this one pairs what can be paired. What is
    left over keeps its place with a ``fault`` in ``paths``, one line with the file: reading it raises that as
    ValueError, and ``KernelFusionModel`` reports it and does the others.

    Several data sets of a run may share an LMDB, such as Blind144's HR images: it is opened once.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        try:
            super().__init__(opt)
        except (AssertionError, ValueError):
            if opt.get('meta_info_file') is not None:
                raise
            lmdb = self.io_backend_opt['type'] == 'lmdb'
            lq, gt = (_lmdb_keys(each) if lmdb else _files(each) for each in (self.lq_folder, self.gt_folder))
            self.paths = pair_by_name(lq, gt, self.lq_folder, self.gt_folder, '{}' if lmdb else self.filename_tmpl)

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


def pair_by_name(lq: Mapping[str, str], gt: Mapping[str, str], lq_folder: str, gt_folder: str,
                 template: str = '{}') -> list[dict[str, str]]:
    """Pair LR and HR pictures by name; what has no partner comes with a ``fault``.

    Args:
        lq, gt: path (or LMDB key) by name without ending.
        lq_folder, gt_folder: where they are, for the message.
        template: LR name made of the HR name.

    Returns:
        ``lq_path``, ``gt_path`` and perhaps ``fault``, sorted by LR name; a lone picture stands in for both.
    """
    partner = {template.format(name): path for name, path in gt.items()}
    pairs = []
    for name in sorted(lq.keys() | partner.keys()):
        if name in lq and name in partner:
            pairs.append({'lq_path': lq[name], 'gt_path': partner[name]})
        else:
            path = lq.get(name) or partner[name]
            missing, folder = ('HR', gt_folder) if name in lq else ('LR', lq_folder)
            fault = f'{path}: there is no {missing} image to it in {folder}'
            pairs.append({'lq_path': path, 'gt_path': path, 'fault': fault})
    return pairs


def _files(folder: str) -> dict[str, str]:
    """Paths of the files of a folder by name without ending; hidden ones are left out, as BasicSR does."""
    with os.scandir(folder) as found:
        return {os.path.splitext(entry.name)[0]: entry.path for entry in found
                if entry.is_file() and not entry.name.startswith('.')}


def _lmdb_keys(folder: str) -> dict[str, str]:
    """Keys of an LMDB by themselves; as BasicSR writes them, up to the first dot of the name."""
    with open(os.path.join(folder, 'meta_info.txt'), encoding='utf-8') as file:
        keys = [line.split('.')[0] for line in file if line.strip()]
    return dict(zip(keys, keys, strict=True))
