"""What may be wrong with a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.faults import first_line


class BadPicture(ValueError):
    """A file that cannot be used; the message is one line."""


class UnknownFormat(BadPicture):
    """PIL does not know what this is."""


@contextmanager
def of_file(path: Path, what: str = '') -> Iterator[None]:
    """Let every BadPicture and OSError of the block be a BadPicture that names the file, and ``what`` is wrong."""
    try:
        yield
    except OSError as error:
        raise BadPicture(f'{path}: cannot be read: {error.strerror or first_line(error)}') from error
    except BadPicture as error:
        raise BadPicture(f'{path}: {what}{error}') from error
