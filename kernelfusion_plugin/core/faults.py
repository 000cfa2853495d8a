"""One-line descriptions of exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def first_line(error: BaseException) -> str:
    """First line of the error's message; its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def prefixed(name: str) -> Iterator[None]:
    """Put ``name``, say of an option, before the message of a ValueError raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


def named(error: BaseException) -> str:
    """Type and first line of the message, if any: for errors whose message alone says little, such as a KeyError."""
    kind, text = type(error).__name__, first_line(error)
    return kind if text == kind else f'{kind}: {text}'
