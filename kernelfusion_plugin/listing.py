"""Filters the files in a data set's folders: BasicSR takes all of them, including notes and thumbnails."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .files import first_few, may_be_picture, printable

Item = TypeVar('Item', str, Mapping[str, str])
# BasicSR's data sets of picture folders. Those of others may read .npy or .mat.
TOOLBOX = ('basicsr.data.single_image_dataset', 'basicsr.data.paired_image_dataset')
log = logging.getLogger('basicsr')  # BasicSR's logger, which writes the run's log


def without_others(dataset: str, items: Sequence[Item]) -> list[Item]:
    """Paths, or pairs of paths by role, without those whose extension is not a picture's, which are logged in one line.

    Args:
        dataset: the data set's name.
        items: as listed by BasicSR's data sets; both files of a pair have the same extension.
    """
    kept: list[Item] = []
    others: list[str] = []
    for item in items:
        paths = [item] if isinstance(item, str) else list(item.values())
        if may_be_picture(paths[0]):
            kept.append(item)
        else:
            others += paths
    if others:
        verb = 'file is not a picture' if len(others) == 1 else 'files are not pictures'
        log.info(f'{dataset}: {len(others)} {verb} by extension, skipped: {first_few(others)}')
    return kept


def no_pictures(place: str) -> str:
    """Message that a folder, LMDB or list has no pictures, with any subfolders that may be meant instead."""
    path = Path(place).expanduser()
    below = [entry.name for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []
    meant = f'; did you mean one of its subfolders ({first_few(below)})?' if below else ''
    return f'there are no pictures in {printable(place)}{meant}'


def drop_others(dataset: Any) -> None:  # noqa: ANN401
    """Permanently remove files that are not pictures from ``paths`` of BasicSR's own data sets of folders.

    LMDBs, lists (``meta_info_file``) and other kinds of data sets are not changed.
    """
    if (type(dataset).__module__ in TOOLBOX and dataset.opt.get('meta_info_file') is None
            and not str(dataset.lq_folder).endswith('.lmdb')):
        dataset.paths = without_others(dataset.opt.get('name') or 'data set', dataset.paths)
