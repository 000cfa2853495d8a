"""What an error says, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Its text's first line; its type, if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def named(error: BaseException) -> str:
    """Its type and its text's first line, if it has one: for faults whose text alone says little, such as a key."""
    kind, text = type(error).__name__, first_line(error)
    return kind if text == kind else f'{kind}: {text}'
