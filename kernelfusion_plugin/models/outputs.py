"""Writes one image's results, in BasicSR's folders, and returns its row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import pictures, report
from ..core.restore import Result


@dataclass(frozen=True)
class Restored:
    """One restored image: ``visuals`` as of ``get_current_visuals``, and what was found and known about it."""

    name: str
    visuals: Mapping[str, Tensor]
    result: Result
    k_true: Tensor | None
    history: list[dict[str, Any]]


def scores_and_files(image: Restored, folder: Path | None, suffix: str, sheet: bool, plot: bool) -> dict[str, Any]:
    """Score the picture as it is saved (8 bit), and write what comes out.

    Files in ``folder`` (None: none): NAME_SUFFIX.png, NAME_kernel.npy, NAME_kernel.png, NAME_sheet.png,
    NAME_run.png.

    Returns:
        Scores, seconds and settings, by column of ``scores.csv``.
    """
    config, visuals = image.result.config, image.visuals
    sr, lq, gt = (report.to_picture(visuals[key] * 2 - 1) if key in visuals else None for key in ('result', 'lq', 'gt'))
    bicubic = report.bicubic_picture(visuals['lq'] * 2 - 1, config.scale)
    kernel = image.result.kernel.numpy()
    k_true = None if image.k_true is None else image.k_true.numpy()
    scores = {**report.picture_scores(sr, bicubic, gt), **report.kernel_scores(kernel, k_true)}
    if folder is not None:
        grey = visuals['lq'].shape[1] == 1
        report.save_picture(folder / f'{image.name}_{suffix}.png', np.ascontiguousarray(sr[..., 0]) if grey else sr)
        report.save_kernel(folder, image.name, kernel)
        if sheet:
            title = f'{image.name}: {lq.shape[1]} x {lq.shape[0]}, x{config.scale}, {config.solver}, {config.preset}'
            panels = pictures.sheet_panels(bicubic, sr, gt, kernel, k_true, scores)
            pictures.save_sheet(folder / f'{image.name}_sheet.png', panels, title)
        if plot:
            pictures.save_plot(folder / f'{image.name}_run.png', image.history, image.name)
    seconds = {f'seconds_{phase}': float(value) for phase, value in image.result.seconds.items()}
    return {**scores, **seconds, 'seed': config.seed, 'solver': config.solver, 'preset': config.preset}
