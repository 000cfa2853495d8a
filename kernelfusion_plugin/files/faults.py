"""Errors about picture files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.faults import first_line


class BadPicture(ValueError):
    """A file that cannot be used; the message is one line."""


class UnknownFormat(BadPicture):
    """A file whose format PIL does not recognise."""


@contextmanager
def of_file(path: Path, what: str = '') -> Iterator[None]:
    """Turn any BadPicture or OSError of the block into a BadPicture that names the file; ``what`` is a prefix."""
    try:
        yield
    except OSError as error:
        raise BadPicture(f'{path}: cannot be read: {error.strerror or first_line(error)}') from error
    except BadPicture as error:
        raise BadPicture(f'{path}: {what}{error}') from error
