"""Measures the spread over seeds, and whether ``surprise``, without ground truth, tells the better of two runs."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.config import KernelFusionConfig
from ..core.degradation import upscale_bicubic
from ..core.kernels import motion
from ..core.metrics import kernel_ncc, kernel_ncc_best_shift, psnr_y
from ..core.nets.patch_net import RECEPTIVE_FIELD
from ..core.restore import restore
from ..core.shift_metrics import psnr_best_subpixel_shift
from ..demo import SCALE, degrade, load_photo, reach
from ..files import distinct_names, read_rgb8
from ..report import to_tensor
from .datasets import RECIPES, Sources
from .make import pictures

PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')  # from scikit-image
SHAKES = (1, 2)  # seeds of camera shakes
SEEDS = (0, 1, 2)
SIDE = 128  # side of the central part that is restored, LR pixels
CLEAR = 0.3  # dB: pairs that differ by less are ignored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """A picture, uint8 RGB (H, W, 3), and the kernel (K, K) to blur it with."""

    picture_name: str
    picture: np.ndarray
    kernel_name: str
    kernel: Tensor


def photographs(names: Iterable[str] = PHOTOS, shakes: Iterable[int] = SHAKES) -> Iterator[Case]:
    """Pictures from scikit-image, each with several camera shakes."""
    for name, shake in itertools.product(names, shakes):
        yield Case(name, load_photo(name), f'motion {shake}', motion(6 * SCALE, shake))


def own(hr: Path, kernels: tuple[Path, ...]) -> list[Case]:
    """The pictures in a folder, each with all kernels from files or folders.

    Raises:
        ValueError: there are no pictures, or one cannot be read or is too small.
    """
    paths, found = pictures(hr), RECIPES['free'].kernel_set(SCALE, Sources(hr, kernels=kernels))
    if not paths:
        raise ValueError(f'--hr {hr}: no pictures in this folder')
    cases = []
    for path, name in zip(paths, distinct_names(paths), strict=True):
        picture = read_rgb8(path)
        for kernel_name, kernel in found.items():
            if min(n // SCALE - 2 * reach(kernel) for n in picture.shape[:2]) < RECEPTIVE_FIELD:
                raise ValueError(f'{path}: {picture.shape[1]} x {picture.shape[0]} pixels are too few for the kernel '
                                 f'{kernel_name}: the LR picture would be under {RECEPTIVE_FIELD} x {RECEPTIVE_FIELD}')
            cases.append(Case(name, picture, kernel_name, kernel))
    return cases


def measure(preset: str, device: torch.device, cases: Iterable[Case], seeds: Iterable[int] = SEEDS,
            keep: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
    """Restore the central part of each case's picture with every seed; ``keep`` gets the results after each run.

    Returns:
        ``rows``; and, for PSNR at zero shift and at the best shift: the largest spread over a case's seeds, in how many
        clear pairs ``surprise`` told the better one, and the mean over all runs and over those that it would choose.
    """
    rows = []
    for case in cases:
        k = case.kernel
        hr, lr = degrade(case.picture, k, max_lr=SIDE)
        x, y = to_tensor(hr).float(), to_tensor(lr).float()
        for seed in seeds:
            result = restore(y.to(device), KernelFusionConfig(preset=preset, seed=seed), name=case.picture_name)
            sr = result.sr.cpu()
            rows.append({'case': f'{case.picture_name}, {case.kernel_name}', 'seed': seed,
                         'bicubic': round(psnr_y(upscale_bicubic(y, 4).clamp(-1, 1), x), 2),
                         'psnr': round(psnr_y(sr, x), 2),
                         'psnr_best_subpixel_shift': round(psnr_best_subpixel_shift(sr, x).psnr, 2),
                         'kernel_ncc': round(kernel_ncc(result.kernel, k), 3),
                         'kernel_ncc_best_shift': round(kernel_ncc_best_shift(result.kernel, k)[0], 3),
                         'surprise': result.surprise})
            log.info(f'  {json.dumps(rows[-1])}')
            if keep:
                keep({'rows': rows})
    return {'rows': rows, **{name: summary(rows, name) for name in ('psnr', 'psnr_best_subpixel_shift')}}


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Figures for one score, see :func:`measure`."""
    groups = by_case(rows).values()
    right, pairs = ranked(rows, name, CLEAR)
    chosen = [min(group, key=itemgetter('surprise'))[name] for group in groups]
    return {'spread': round(max(max(row[name] for row in group) - min(row[name] for row in group)
                                for group in groups), 2),
            'right': right, 'pairs': pairs, 'mean': round(sum(row[name] for row in rows) / len(rows), 2),
            'mean_of_chosen': round(sum(chosen) / len(chosen), 2)}


def ranked(rows: list[dict[str, Any]], name: str, clear: float) -> tuple[int, int]:
    """Among pairs of runs of a case whose scores ``name`` differ by more than ``clear``: the number that ``surprise``
    ranks correctly, and the total number. Runs without ``surprise`` (``joint``) are ignored.
    """
    pairs = [(one, other) for group in by_case(rows).values() for one, other in itertools.combinations(group, 2)
             if abs(one[name] - other[name]) > clear and one['surprise'] is not None]
    return sum((one[name] > other[name]) == (one['surprise'] < other['surprise']) for one, other in pairs), len(pairs)


def by_case(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs grouped by case."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row['case'], []).append(row)
    return cases
