"""True kernels of a data set: finds the file that belongs to an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .core import kernel_files
from .core.kernel_files import load_kernel

ENDINGS = tuple(ending for ending in kernel_files.ENDINGS if not ending.startswith('.jp'))  # of what loses nothing


def kernel_place(dataset: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str | None, str]:
    """Where true kernels are, and the template of their files' names; what the data set says goes before our section.

    Args:
        dataset: its options, with ``dataroot_kernel`` and ``kernel_tmpl``.
        ours: ``kernel_dir`` and ``kernel_tmpl`` of the model's section.
    """
    return (dataset.get('dataroot_kernel') or ours.get('kernel_dir'),
            dataset.get('kernel_tmpl') or ours.get('kernel_tmpl') or '{name}')


def find_kernel(place: str, template: str, name: str) -> Path | None:
    """The kernel's file of image ``name``: ``place`` itself if it is a file, else TEMPLATE.npy, .mat, … in it.

    Args:
        template: file name without ending; ``{name}`` is the image's name, ``{number}`` the last number in it
            without leading zeros (``im_13``: 13, ``0801_k05``: 5).

    Raises:
        ValueError: the place does not exist or the template has other fields.
    """
    root = Path(place).expanduser()
    if root.is_file():
        return root
    if not root.is_dir():
        raise ValueError(f'{place}: no such folder or file of kernels')
    stem = kernel_stem(template, name)
    return next((path for ending in ENDINGS if (path := root / f'{stem}{ending}').is_file()), None)


def kernel_stem(template: str, name: str) -> str:
    """Name of the kernel's file of image ``name``, without its ending; see :func:`find_kernel`."""
    numbers = re.findall(r'\d+', name)
    try:
        return template.format(name=name, number=int(numbers[-1]) if numbers else '')
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'kernel_tmpl {template!r} may have the fields {{name}} and {{number}} only') from error


def read_kernel(place: str | None, template: str, name: str) -> Tensor | None:
    """The kernel (K, K) of image ``name``, which sums to 1; None where no place is given or it has none for the image.

    Raises:
        ValueError: as :func:`find_kernel`, or the file is no kernel; one line that names it.
    """
    path = find_kernel(place, template, name) if place else None
    return None if path is None else load_kernel(path)
