"""Reads option files and ``--force_yml``, as BasicSR's users write them, into dicts. BasicSR is not needed.

BasicSR's own reader takes ``1e-4`` for a string; with ``--force_yml``, it sets only options that the file already has,
and takes ``1e-3`` and ``-1`` for strings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_FLOAT = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$')
_WORDS = {'': None, '~': None, 'null': None, 'none': None, 'true': True, 'false': False,
          'yes': True, 'no': False, 'on': True, 'off': False,  # as in files, by YAML 1.1
          '.inf': float('inf'), '+.inf': float('inf'), '-.inf': -float('inf'), '.nan': float('nan')}


class _FileLoader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``1e-4`` is also a number."""


_FileLoader.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(r'[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$'),
                                  list('-+0123456789'))


class _ValueLoader(yaml.SafeLoader):
    """What a value of ``--force_yml`` may be: lists and mappings of numbers, booleans, null and strings."""

    yaml_implicit_resolvers: dict = {}


_ValueLoader.add_constructor('tag:yaml.org,2002:str', lambda loader, node:
                             node.value if node.style in ('"', "'") else _scalar(node.value))


def _scalar(text: str) -> bool | int | float | str | None:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r'[-+]?\d+', text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def parse_value(text: str) -> Any:
    """The value of ``key=text``: ``1e-3``, -1, ``[1, 2.5]``, ``{a: 1}``, true, null; anything else is a string."""
    try:
        return yaml.load(text, _ValueLoader) if text.lstrip()[:1] in ('[', '{', '"', "'", '!') else _scalar(text)
    except yaml.YAMLError:
        return text


def read_file(path: str | Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an option file on top of the one that it names as its ``base``.

    ``base: other.yml``, a path relative to the file's own folder, inherits all of that file's options; this file's
    options override them, section by section (a network section with a ``type`` inherits no arguments). A data set or a
    metric given as ``~`` is left out.

    Args:
        below: the files being read on top of this one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, is not a mapping, or is its own base.
    """
    opt = _read_one(path)
    base = opt.pop('base', None)
    if base is not None:
        below = (*below, Path(path).resolve())
        beneath = Path(path).resolve().parent / str(base)
        if beneath.resolve() in below:
            raise ValueError(f'{path}: base: {base} leads back to this file')
        if not beneath.is_file():
            raise FileNotFoundError(f'{path}: base: there is no option file {base} beside it')
        opt = _over(read_file(beneath, below), opt)
    leave_out(opt)
    return opt


def leave_out(opt: dict[str, Any]) -> None:
    """Remove data sets, and metrics of ``val``, that are given as ``~``."""
    for section, key in ((opt, 'datasets'), (opt.get('val'), 'metrics')):
        if isinstance(section, dict) and isinstance(section.get(key), dict):
            section[key] = {name: value for name, value in section[key].items() if value is not None}


def fill_in(opt: dict[str, Any]) -> None:
    """Fill in options whose absence is a KeyError in BasicSR, and leave out what is given as ``~``; names become text.

    Args:
        opt: changed in place; has passed :func:`.option_checks.check_top_level`.
    """
    leave_out(opt)
    for section in (opt, *opt['datasets'].values()):
        if isinstance(section, dict) and section.get('name') is not None:
            section['name'] = str(section['name'])  # used as a folder name
    opt.setdefault('num_gpu', 'auto')
    for section in ('path', 'val'):
        opt[section] = opt.get(section) or {}
    opt['val'].setdefault('save_img', True)


def _over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``: sections are merged, except a network with its type; everything else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        both = both and not (str(key).startswith('network') and 'type' in value)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _read_one(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no option file {path}')
    try:
        opt = yaml.load(Path(path).read_text(encoding='utf-8'), _FileLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not a YAML file: {" ".join(str(error).split())}') from error
    if not isinstance(opt, dict):
        raise ValueError(f'{path} must hold options (name: value), and holds {type(opt).__name__}')
    return opt


def apply_force_yml(opt: dict[str, Any], entries: list[str]) -> None:
    """Set each ``a:b:c=value`` in ``opt``; missing sections are created, and lists are indexed by number.

    Raises:
        ValueError: an entry has no ``=``, or names something below a value that is not a section.
    """
    for entry in entries:
        keys, equals, text = entry.partition('=')
        *parents, last = [key.strip() for key in keys.split(':')]
        if not equals or not last or not all(parents):
            raise ValueError(f'--force_yml takes section:option=value, got {entry!r}')
        section: Any = opt
        for depth, key in enumerate(parents):
            if isinstance(section, dict) and section.get(key) is None:
                section[key] = {}
            section = section[_index(section, key, entry)]
            if not isinstance(section, (dict, list)):
                raise ValueError(f'--force_yml {entry}: {":".join(parents[:depth + 1])} is {section!r}, not a section')
        section[_index(section, last, entry)] = parse_value(text.strip())


def _index(section: dict | list, key: str, entry: str) -> str | int:
    if isinstance(section, dict):
        return key
    if not key.isdigit() or int(key) >= len(section):
        raise ValueError(f'--force_yml {entry}: {key} must be 0 to {len(section) - 1}, the place in a list')
    return int(key)


def top_level(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The top level of an option file over that of its ``base``, as far as they can be read; values are as in the YAML
    nodes.
    """
    try:
        root = yaml.compose(path.read_text(encoding='utf-8'), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(root, yaml.MappingNode):
        return {}
    top = {key.value: value.value for key, value in root.value if isinstance(key.value, str)}
    below = (*below, path.resolve())
    beneath = path.resolve().parent / top['base'] if isinstance(top.get('base'), str) else path
    return {**({} if beneath.resolve() in below else top_level(beneath, below)), **top}
