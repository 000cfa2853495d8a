"""What an error says, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Its text's first line; its type, if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
