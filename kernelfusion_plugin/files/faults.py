"""What may be wrong with a file."""

from __future__ import annotations


class BadPicture(ValueError):
    """A file that cannot be used; the message is one line."""


class UnknownFormat(BadPicture):
    """PIL does not know what this is."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
