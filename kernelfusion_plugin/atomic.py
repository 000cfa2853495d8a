"""Files that are there whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, write: Callable[[BinaryIO], object], lasting: bool = True) -> None:
    """Let ``write`` fill a temporary file in the same folder, then rename it to ``path``; makes the folder.

    Args:
        lasting: a power cut, too, leaves the old file or the new one: the disk is waited for.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=_prefix(path.name), suffix='.tmp', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            write(file)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's files are the owner's alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if lasting:
        _sync_folder(path.parent)


def ready_folder(folder: PathLike, named: str) -> None:
    """Make a folder that files are to be written into after long work, and see that they can be.

    Raises:
        ValueError: they cannot; begins with ``named``, what the user gave.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f'{named}: cannot be made, or written to: {error.strerror}') from error


def write_text_atomically(path: PathLike, text: str, lasting: bool = True) -> None:
    r"""Likewise a text, as UTF-8; bytes of a file's name that are no text become ``\udcXX``, which JSON reads back."""
    write_atomically(path, lambda file: file.write(text.encode(errors='backslashreplace')), lasting)


def sweep(folder: Path, name: str = '') -> None:
    """Remove what :func:`write_atomically` leaves if it is killed, of the file ``name`` or of any; only while nobody
    else writes there.
    """
    for path in folder.glob(f'{glob.escape(_prefix(name))}*.tmp' if name else '.*.tmp'):
        path.unlink(missing_ok=True)


def _prefix(name: str) -> str:
    """What the names of a file's temporary ones begin with."""
    return f'.{name[:40]}.'


def _sync_folder(folder: Path) -> None:
    """The renaming on the disk, too; where a folder cannot be synced (some network file systems) it is left at that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
