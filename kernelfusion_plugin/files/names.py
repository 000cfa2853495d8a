"""Finds picture files, and names them in results and messages."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

ENDINGS = ('.png', '.apng', '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.tif', '.tiff', '.webp', '.bmp', '.dib', '.gif',
           '.tga', '.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.j2k', '.avif')

# Also read by OpenCV, and thus by BasicSR's data sets.
OPENCV_ENDINGS = ('.pxm', '.pam', '.pfm', '.sr', '.ras', '.exr', '.hdr', '.pic')

# Unsupported photographs, reported when found in a folder: HEIC, JPEG XL and XR, HDR, and camera raw files.
UNREAD_ENDINGS = ('.heic', '.heif', '.hif', '.jxl', '.jxr', '.wdp', '.hdp', '.exr', '.hdr', '.dng', '.raw', '.cr2',
                  '.cr3', '.crw', '.nef', '.nrw', '.arw', '.srf', '.sr2', '.raf', '.orf', '.rw2', '.rwl', '.pef',
                  '.srw', '.x3f', '.3fr', '.fff', '.iiq', '.mos', '.mef', '.mrw', '.erf', '.kdc', '.dcr', '.gpr')
SHOWN = 3  # number of files named in a message


def may_be_picture(path: str) -> bool:
    """Whether a data set file may be a picture by its extension; files without one may."""
    ending = os.path.splitext(path)[1].lower()
    return not ending or ending in ENDINGS or ending in OPENCV_ENDINGS


def pictures_in(folder: Path) -> list[Path]:
    """Pictures in a folder, sorted, without hidden files; unsupported photographs are logged in one line."""
    there = sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
    if unread := [path.name for path in there if path.suffix.lower() in UNREAD_ENDINGS and path.is_file()]:
        count = '1 file' if len(unread) == 1 else f'{len(unread)} files'
        log.warning(f'{printable(str(folder))}: {count} skipped, unsupported format: '
                    f'{first_few(unread)}; save as PNG, JPEG or TIFF')
    return [path for path in there if path.suffix.lower() in ENDINGS]


def find_pictures(places: Sequence[str]) -> list[Path]:
    """Files of each place, without duplicates: a file, a folder (its pictures, sorted) or a pattern (``*.jpg``).

    Raises:
        ValueError: a place has no files.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place:  # would mean the working folder
            raise ValueError('the name of a picture is empty: give a file, a folder or a pattern')
        path = Path(os.path.expanduser(place))  # '~draft.png' is unchanged if there is no such user
        if path.is_dir():
            files = pictures_in(path)
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(str(path)) if not Path(p).is_dir())
        if not files:
            raise ValueError(f'{place}: {"no pictures in this folder" if path.is_dir() else "no such file"}')
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def distinct_names(paths: Iterable[Path]) -> list[str]:
    """A unique name for each file: its stem; if ambiguous, with extension, then with folder, then with a number.

    Names do not depend on the order of the files unless numbers are needed.
    """
    paths = list(paths)
    names = [path.stem for path in paths]
    for longer in (lambda p: f'{p.stem}_{p.suffix[1:]}', lambda p: f'{p.parent.name}_{p.stem}_{p.suffix[1:]}'):
        often = Counter(names)
        names = [longer(path) if often[name] > 1 else name for name, path in zip(names, paths, strict=True)]
    taken, seen = set(names), set()
    for index, name in enumerate(names):
        if name in seen:
            count = 2
            while f'{name}_{count}' in taken:
                count += 1
            names[index] = f'{name}_{count}'
            taken.add(names[index])
        seen.add(name)
    return names


def check_folder_name(where: str, name: str) -> None:
    """Check that a name can be a folder of results: not empty, without / and not hidden.

    Raises:
        ValueError: it cannot; the message says ``where`` the name was given.
    """
    if not name or set(name) & set('/\\\0') or name.startswith('.'):
        raise ValueError(f'{where} must be a folder name without / or leading dot, got {name!r}')


def first_few(names: Sequence[str]) -> str:
    """The first few of some names, for a message."""
    return ', '.join(printable(name) for name in sorted(names)[:SHOWN]) + (', …' if len(names) > SHOWN else '')


def printable(name: str) -> str:
    """A file name for a message or title: line breaks, control characters and undecodable bytes become ?."""
    return ''.join(c if c.isprintable() else '?' for c in name)
