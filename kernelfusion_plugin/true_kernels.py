"""Finds and reads the file of an image's true kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .core import kernel_files
from .core.kernel_files import load_kernel

ENDINGS = tuple(ending for ending in kernel_files.ENDINGS if not ending.startswith('.jp'))  # lossless formats only


def kernel_place(dataset: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str | None, str]:
    """Path of the true kernels and template of their file names; a data set's options override the model's section.

    Args:
        dataset: the data set's options, with ``dataroot_kernel`` and ``kernel_tmpl``.
        ours: ``kernel_dir`` and ``kernel_tmpl`` of the model's section.
    """
    return (dataset.get('dataroot_kernel') or ours.get('kernel_dir'),
            dataset.get('kernel_tmpl') or ours.get('kernel_tmpl') or '{name}')


def find_kernel(place: str, template: str, name: str) -> Path | None:
    """The kernel file of image ``name``: ``place`` itself if it is a file, else TEMPLATE.npy, .mat, … in it.

    Args:
        template: file name without extension; ``{name}`` is the image's name, ``{number}`` the last number in it
            without leading zeros (``im_13``: 13, ``0801_k05``: 5).

    Raises:
        ValueError: ``place`` does not exist, or the template has other fields.
    """
    root = Path(place).expanduser()
    if root.is_file():
        return root
    if not root.is_dir():
        raise ValueError(f'{place}: no such kernel file or folder')
    stem = kernel_stem(template, name)
    return next((path for ending in ENDINGS if (path := root / f'{stem}{ending}').is_file()), None)


def kernel_stem(template: str, name: str) -> str:
    """Name of the kernel file of image ``name`` without extension; see :func:`find_kernel`."""
    numbers = re.findall(r'\d+', name)
    try:
        return template.format(name=name, number=int(numbers[-1]) if numbers else '')
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'kernel_tmpl {template!r} may only have the fields {{name}} and {{number}}') from error


def read_kernel(place: str | None, template: str, name: str) -> Tensor | None:
    """The kernel (K, K) of image ``name``, summing to 1; None if ``place`` is None or has no kernel for the image.

    Raises:
        ValueError: as :func:`find_kernel`, or the file does not hold a kernel; one line that names it.
    """
    path = find_kernel(place, template, name) if place else None
    return None if path is None else load_kernel(path)
