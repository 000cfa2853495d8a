"""Scores one image and writes its results to BasicSR's folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import pictures, report

NAME_MAX = 255  # bytes in a file name, if the file system does not say


@dataclass(frozen=True)
class Restored:
    """One restored image with its kernels.

    Attributes:
        name: the image's name.
        visuals: as returned by ``get_current_visuals``.
        scale: s.
        title: end of the sheet's title, after name and size.
        kernel: the estimate (K, K); None if the method has none.
        k_true: the true kernel, if known.
        method: the method's name on the sheet.
        kernel_space: ``hr``, or ``lr`` for an estimate of the blur in LR pixels, which is saved as NAME_lr_kernel and
            not compared with the true kernel.
        kernels: kernels of the regions (R, C, K, K), if there are several.
    """

    name: str
    visuals: Mapping[str, Tensor]
    scale: int
    title: str
    kernel: Tensor | None
    k_true: Tensor | None = None
    method: str = 'KernelFusion'
    kernel_space: str = 'hr'
    kernels: Tensor | None = None


def scores_and_files(image: Restored, folder: Path | None, suffix: str, sheet: bool) -> dict[str, Any]:
    """Score the picture as saved (8 bit) and write the results.

    Files in ``folder`` (None: write nothing): NAME_SUFFIX.png, NAME_kernel.npy, NAME_kernel.png, NAME_sheet.png; with
    several regions also NAME_kernels.npy and NAME_kernels.png.

    Returns:
        Scores by column of ``scores.csv``.

    Raises:
        ValueError: the picture has values that are not finite, as of a network whose training diverged.
    """
    visuals = image.visuals
    if not visuals['result'].isfinite().all():
        raise ValueError(f'{image.method} made a picture with values that are not finite')
    sr, lq, gt = (report.to_picture(visuals[key] * 2 - 1) if key in visuals else None for key in ('result', 'lq', 'gt'))
    bicubic = report.bicubic_picture(visuals['lq'] * 2 - 1, image.scale)
    kernel, k_true, kernels = (None if k is None else k.numpy() for k in (image.kernel, image.k_true, image.kernels))
    scores = report.picture_scores(sr, bicubic, gt)
    if kernel is not None and image.kernel_space == 'hr':
        scores.update(report.kernel_scores(kernel, k_true))
        scores.update(report.degradation_scores(sr, lq, gt, kernel, k_true, image.scale, kernels))
    if folder is not None:
        grey = visuals['lq'].shape[1] == 1
        report.save_picture(folder / f'{image.name}_{suffix}.png', np.ascontiguousarray(sr[..., 0]) if grey else sr)
        if kernel is not None:
            report.save_kernel(folder, image.name if image.kernel_space == 'hr' else f'{image.name}_lr', kernel)
        if kernels is not None:
            report.save_region_kernels(folder, image.name, kernels)
        if sheet:
            title = f'{image.name}: {lq.shape[1]} x {lq.shape[0]}, {image.title}'
            panels = pictures.sheet_panels(bicubic, sr, gt, kernel, k_true, scores, image.method,
                                           'kernel' if image.kernel_space == 'hr' else 'LR-space kernel', kernels)
            pictures.save_sheet(folder / f'{image.name}_sheet.png', panels, title)
    return scores


def endings(suffix: str) -> list[str]:
    """Name endings, after the image's name, of the files that :func:`scores_and_files` may write."""
    return [f'_{suffix}.png', '_kernel.npy', '_kernel.png', '_lr_kernel.npy', '_lr_kernel.png', '_kernels.npy',
            '_kernels.png', '_sheet.png']


def name_fault(name: str, endings: Iterable[str], folder: Path) -> str | None:
    """One line if the image's name with the longest ending is too long for a file name; else None.

    Args:
        endings: name endings of the files to be written.
        folder: any folder on the same file system.
    """
    try:
        limit = os.pathconf(folder, 'PC_NAME_MAX')
    except (AttributeError, OSError, ValueError):  # not available on this system, or unknown
        limit = NAME_MAX
    longest = max(endings, key=lambda ending: len(os.fsencode(ending)), default='')
    size = len(os.fsencode(name + longest))
    if size <= limit:
        return None
    return (f'the names of its results (…{longest}) would have {size} bytes, and at most {limit} are allowed here: '
            'rename the file, or give the run a shorter val: suffix')


def written_files(folder: Path | None, name: str, suffix: str) -> list[Path]:
    """The image's result files that exist in ``folder``."""
    return [path for ending in (*endings(suffix), '_run.png')
            if folder is not None and (path := folder / f'{name}{ending}').is_file()]
