"""Which files of a data set's folders are tried: BasicSR takes all that lie there, notes and thumbnails too."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .files import first_few, may_be_picture, printable

Item = TypeVar('Item', str, Mapping[str, str])
# Those of BasicSR that list folders of pictures. Another's data set may well read .npy or .mat.
TOOLBOX = ('basicsr.data.single_image_dataset', 'basicsr.data.paired_image_dataset')
log = logging.getLogger('basicsr')  # the toolbox's own, for it is what goes into a run's log


def without_others(dataset: str, items: Sequence[Item]) -> list[Item]:
    """Paths, or pairs of paths by role, less those that are no pictures by their ending; a line of the log names these.

    Args:
        dataset: its name.
        items: as BasicSR's data sets list them; both of a pair have the same ending.
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
        verb = 'file is no picture by its' if len(others) == 1 else 'files are no pictures by their'
        log.info(f'{dataset}: {len(others)} {verb} ending, left out: {first_few(others)}')
    return kept


def no_pictures(place: str) -> str:
    """That a folder (an LMDB, a list) has none, for a message; with its own folders, one of which may be meant."""
    path = Path(place).expanduser()
    below = [entry.name for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []
    meant = f'; is one of its folders meant ({first_few(below)})?' if below else ''
    return f'there are no pictures in {printable(place)}{meant}'


def drop_others(dataset: Any) -> None:  # noqa: ANN401
    """Take files that are no pictures out of ``paths`` of BasicSR's own data sets of folders, for good.

    LMDBs, lists (``meta_info_file``) and data sets of other kinds stay as they are.
    """
    if (type(dataset).__module__ in TOOLBOX and dataset.opt.get('meta_info_file') is None
            and not str(dataset.lq_folder).endswith('.lmdb')):
        dataset.paths = without_others(dataset.opt.get('name') or 'data set', dataset.paths)
