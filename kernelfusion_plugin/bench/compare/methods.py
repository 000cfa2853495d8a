"""The methods to compare: one option file each, read as by our launchers, with a unique label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.faults import prefixed
from ...option_checks import check_top_level
from ...option_files import apply_force_yml, fill_in, read_file

SLUG = 80  # maximum length of a file name made from a label
INPUT, TRUTH = 'LR', 'ground truth'  # titles of pictures, not allowed as labels


@dataclass(frozen=True)
class Method:
    """One option file.

    Attributes:
        label: its ``name``, with the file name in brackets if two files share it. Unique.
        slug: the label as a file name. Unique.
        file: the option file, as given.
        opt: the options to run, merged with ``--force_yml``.
    """

    label: str
    slug: str
    file: Path
    opt: dict[str, Any]

    @property
    def suffix(self) -> str:
        """The suffix that BasicSR's models append to an image's name: NAME_SUFFIX.png."""
        return str(self.opt['val']['suffix'] or self.opt['name'])


def load_methods(files: Sequence[Path], force_yml: Sequence[str] = ()) -> list[Method]:
    """Read the option files.

    Pictures are always saved. BasicSR's metrics are removed, since every method is scored by :mod:`.collect` and the
    measured seconds should be the method's alone.

    Args:
        force_yml: ``a:b=value``, applied to every file.

    Raises:
        ValueError: a file is given twice, is not YAML, or lacks what BasicSR needs.
        FileNotFoundError: there is no such file.
    """
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise ValueError(f'{file} is given twice: a method cannot be compared with itself')
        seen.add(file.resolve())
    opts = [_options(file, list(force_yml)) for file in files]
    labels = _labels([opt['name'] for opt in opts], files)
    if len(set(labels)) < len(labels):
        raise ValueError(f'{", ".join(map(str, files))}: the names {", ".join(labels)} cannot be told apart')
    return [Method(*parts) for parts in zip(labels, slugs(labels), files, opts)]


def by_label(methods: Sequence[Method], label: str) -> Method:
    """The method with that label.

    Raises:
        ValueError: there is none.
    """
    for method in methods:
        if method.label == label:
            return method
    raise ValueError(f'--reference: there is no method {label!r}; there are {", ".join(m.label for m in methods)}')


def _options(file: Path, force_yml: list[str]) -> dict[str, Any]:
    opt = read_file(file)
    apply_force_yml(opt, force_yml)
    with prefixed(str(file)):
        check_top_level(opt)
    fill_in(opt)
    for key, value in opt['datasets'].items():
        if not isinstance(value, dict):
            raise ValueError(f'{file}: datasets:{key} must be a section, got {value!r}')
    opt['path'].pop('results_root', None)
    opt['val'].pop('metrics', None)
    opt['val']['save_img'] = True
    opt['val'].setdefault('suffix', None)  # BasicSR's SRModel fails without the key
    return opt


def _labels(names: Sequence[str], files: Sequence[Path]) -> list[str]:
    counts, stems = Counter([*names, INPUT, TRUTH]), Counter((name, file.stem) for name, file in zip(names, files))
    return [name if counts[name] == 1 else f'{name} ({file.stem if stems[name, file.stem] == 1 else file})'
            for name, file in zip(names, files)]


def slugs(labels: Sequence[str]) -> list[str]:
    """Labels as file names, unique even ignoring case; all but letters, digits and ``. + -`` become underscores."""
    taken: dict[str, str] = {}
    for label in labels:
        slug = plain = re.sub(r'[^\w.+-]+', '_', label)[:SLUG].strip('._') or 'unnamed'
        number = 1
        while slug.lower() in taken:
            number += 1
            slug = f'{plain}_{number}'
        taken[slug.lower()] = slug
    return list(taken.values())
