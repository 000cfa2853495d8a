"""Option sections as frozen dataclasses: names are checked, and lists become tuples."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from .faults import prefixed

T = TypeVar('T')


def section_of(opt: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of an option file; empty if absent.

    Raises:
        ValueError: the value is not a section.
    """
    section = opt.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f'{name!r} must be a section of options, got {section!r}')
    return section


def from_section(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """``kind(**options)``, with lists as tuples.

    Args:
        kind: a dataclass that checks its values.
        where: name of the section, for messages.

    Raises:
        ValueError: ``options`` is not a section, has a key that ``kind`` does not (the nearest one is named), lacks
            a required one, or has a value that ``kind`` refuses.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'{where!r} must be a section of options, got {options!r}')
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    check_keys(where, options, fields)
    missing = [name for name, field in fields.items() if name not in options and _required(field)]
    if missing:
        raise ValueError(f'{where!r} needs {", ".join(missing)}')
    with prefixed(repr(where)):
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def check_keys(section: str, keys: Iterable[object], known: Collection[str]) -> None:
    """Raise ValueError for a key of a section ('': the top level) that is not a known one, naming the nearest."""
    for key in keys:
        if key not in known:
            raise ValueError(f'unknown option {f"{section}.{key}".lstrip(".")!r}{nearest(str(key), known)}')


def nearest(key: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, and all known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return (f': did you mean {close[0]!r}?' if close else '.') + f' Known: {", ".join(known)}'


def must_be(name: str, kind: Any, value: Any) -> str:
    """The message for an option whose value is not of type ``kind``: int, float, str, bool, or a union of these."""
    kinds = typing.get_args(kind) or (kind,)
    hint = ''
    if str in kinds and isinstance(value, Mapping):
        text = f'"{{{", ".join(map(str, value))}}}"'
        hint = f": braces make a section of it; write {text}, and on the command line '{text}'"
    return f'{name} must be {", or ".join(_WORDS.get(each, str(each)) for each in kinds)}, got {value!r}{hint}'


_WORDS = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false', type(None): '~'}


def check_range(name: str, value: Any, low: float, high: float = float('inf')) -> tuple[float, float]:
    """``value``, a pair of finite numbers or one, as a pair in ascending order within [low, high].

    Raises:
        ValueError: it is anything else.
    """
    pair = value if isinstance(value, tuple) else (value, value)
    if (len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in pair)
            or not low <= pair[0] <= pair[1] <= high or pair[1] == math.inf):
        raise ValueError(f'{name} must be a {_finite(*pair)}number or [least, greatest], {_bounds(low, high)}, '
                         f'got {value!r}')
    return pair


def check_number(name: str, value: Any, low: float, high: float = float('inf'), whole: bool = False) -> None:
    """Refuse anything but a finite number (or a whole number) within [low, high].

    Raises:
        ValueError: the value is refused; the message names the option.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high or value == math.inf:
        kind = 'whole ' if whole else _finite(value)
        raise ValueError(f'{name} must be a {kind}number, {_bounds(low, high)}, got {value!r}')


def check_interval(name: str, value: Any, low: float) -> None:
    """Refuse anything but a number of at least ``low``; infinity is one, at which something is never done.

    Raises:
        ValueError: the value is refused; the message names the option.
    """
    if value != math.inf:
        check_number(name, value, low)


def _finite(*values: Any) -> str:
    """What a message about numbers adds if one of the values is infinite or no number."""
    return 'finite ' if any(isinstance(value, float) and not math.isfinite(value) for value in values) else ''


def _bounds(low: float, high: float) -> str:
    return f'at least {low:g}' if high == float('inf') else f'between {low:g} and {high:g}'


def check_choice(name: str, value: Any, known: Iterable[Any]) -> None:
    """Raise ValueError unless the value is a known one; the message names the option and all known values."""
    known = tuple(known)  # in which an unhashable value can be looked up, too
    if value not in known:
        raise ValueError(f'{name} must be one of {", ".join(map(str, known))}, got {value!r}')


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
