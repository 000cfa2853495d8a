"""What a method gives back for one image; writes it in BasicSR's folders, and returns its row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import pictures, report


@dataclass(frozen=True)
class Restoration:
    """One restored image.

    Attributes:
        sr: (1, 3, s·h, s·w) in [-1, 1].
        kernel: (K, K) on the CPU, found or given; None where the method has none.
        seconds: of ``phase1`` and ``phase2``.
        method: name for sheets.
        settings: further columns of ``scores.csv``: seed, solver, preset, where there are such.
        history: points of the plot of the run; None for no plot.
    """

    sr: Tensor
    kernel: Tensor | None
    seconds: Mapping[str, float]
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] | None = None


def scores_and_files(name: str, visuals: Mapping[str, Tensor], restoration: Restoration, k_true: Tensor | None,
                     scale: int, folder: Path | None, suffix: str, sheet: bool) -> dict[str, Any]:
    """Score the picture as it is saved (8 bit), and write what comes out.

    Files in ``folder`` (None: none): NAME_SUFFIX.png; with a kernel NAME_kernel.npy, NAME_kernel.png; NAME_sheet.png,
    NAME_run.png if they are wanted.

    Args:
        name: of the image.
        visuals: as of ``get_current_visuals``, in [0, 1].

    Returns:
        Scores, seconds and settings, by column of ``scores.csv``.
    """
    sr, lq, gt = (report.to_picture(visuals[key] * 2 - 1) if key in visuals else None for key in ('result', 'lq', 'gt'))
    bicubic = report.bicubic_picture(visuals['lq'] * 2 - 1, scale)
    kernel, k_true = (None if k is None else k.numpy() for k in (restoration.kernel, k_true))
    scores = {**report.picture_scores(sr, bicubic, gt), **report.kernel_scores(kernel, k_true),
              **report.degradation_scores(sr, lq, gt, kernel, k_true, scale)}
    if folder is not None:
        grey = visuals['lq'].shape[1] == 1
        report.save_picture(folder / f'{name}_{suffix}.png', np.ascontiguousarray(sr[..., 0]) if grey else sr)
        if kernel is not None:
            report.save_kernel(folder, name, kernel)
        if sheet:
            about = [str(restoration.settings[key]) for key in ('solver', 'preset') if key in restoration.settings]
            title = ', '.join([f'{name}: {lq.shape[1]} x {lq.shape[0]}', f'x{scale}', *about])
            panels = pictures.sheet_panels(bicubic, sr, gt, kernel, k_true, scores, restoration.method)
            pictures.save_sheet(folder / f'{name}_sheet.png', panels, title)
        if restoration.history is not None:
            pictures.save_plot(folder / f'{name}_run.png', restoration.history, name)
    seconds = {f'seconds_{phase}': float(value) for phase, value in restoration.seconds.items()}
    return {**scores, **seconds, **restoration.settings}
