"""Atomic file writes: a file is complete or absent, whatever ends the process or the machine."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, write: Callable[[BinaryIO], object], lasting: bool = True) -> None:
    """Let ``write`` fill a temporary file in the same folder, which is created, then rename it to ``path``.

    Args:
        lasting: sync to disk, so that even a power cut leaves either the old or the new file.
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
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files readable by the owner only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if lasting:
        _sync_folder(path.parent)


def ready_folder(folder: PathLike, named: str) -> None:
    """Create an output folder and check that it is writable, before long work.

    Raises:
        ValueError: it is not; the message begins with ``named``, the option or path as the user gave it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f'{named}: cannot be created or written to: {error.strerror}') from error


def write_text_atomically(path: PathLike, text: str, lasting: bool = True) -> None:
    r"""Write text atomically as UTF-8; undecodable bytes of file names become ``\udcXX``, which JSON can read back."""
    write_atomically(path, lambda file: file.write(text.encode(errors='backslashreplace')), lasting)


def sweep(folder: Path, name: str = '') -> None:
    """Remove temporary files left by a killed :func:`write_atomically`, for the file ``name`` or for all files.

    Only call it while nothing else writes to the folder.
    """
    for path in folder.glob(f'{glob.escape(_prefix(name))}*.tmp' if name else '.*.tmp'):
        path.unlink(missing_ok=True)


def _prefix(name: str) -> str:
    """Prefix of the names of a file's temporary files."""
    return f'.{name[:40]}.'


def _sync_folder(folder: Path) -> None:
    """Sync the renaming to disk, if the file system can sync folders (some network file systems cannot)."""
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
