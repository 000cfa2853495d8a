"""PSNR and SSIM on Y without a border given as a fraction of height and width, for BasicSR's METRIC_REGISTRY."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import metrics
from ..core.sections import check_choice, nearest

OPTIONS = ('border', 'input_order', 'better')  # better: BasicSR's own key, for its record of the best iteration
BORDER = metrics.PAPER_BORDER


def calculate_psnr_border(img: np.ndarray, img2: np.ndarray, border: float | int = BORDER, input_order: str = 'HWC',
                          **options: Any) -> float:  # noqa: ANN401
    """PSNR in dB on Y (BT.601, 16 … 235), without the border; inf for identical images.

    Args:
        img, img2: uint8 BGR (H, W, 3), or greyscale (H, W) or (H, W, 1), as BasicSR passes them to a metric.
        border: cropped from each side: a fraction below 1 of height and width (the paper: 0.05), or whole pixels.
        input_order: 'HWC' or 'CHW'.
        **options: ``better`` is BasicSR's own key, ignored here.

    Raises:
        ValueError: sizes differ, the border is out of range, or an option is unknown (the nearest known one is named).
    """
    check_options(options)
    return metrics.psnr_y(*to_pair(img, img2, input_order), read_border(border))


def calculate_ssim_border(img: np.ndarray, img2: np.ndarray, border: float | int = BORDER, input_order: str = 'HWC',
                          **options: Any) -> float:  # noqa: ANN401
    """SSIM on Y (Wang et al. 2004, Gaussian window 11 x 11), without the border.

    Arguments as for :func:`calculate_psnr_border`.
    """
    check_options(options)
    return metrics.ssim_y(*to_pair(img, img2, input_order), read_border(border))


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown option (the nearest known one is named) or an invalid border."""
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f'unknown option {key!r} of a metric with a border{nearest(str(key), OPTIONS)}')
    if 'border' in options:
        read_border(options['border'])


def read_border(border: Any) -> float | int:  # noqa: ANN401
    """Parse a border from an option file: a fraction below 1, or whole pixels."""
    try:
        number = float(border)
    except (TypeError, ValueError) as error:
        raise ValueError(f'border must be a fraction below 1 or whole pixels, got {border!r}') from error
    if number >= 1 and number != int(number):
        raise ValueError(f'border must be a fraction below 1 or whole pixels, got {border!r}')
    return number if number < 1 else int(number)


def to_pair(img: np.ndarray, img2: np.ndarray, input_order: str) -> tuple[Tensor, Tensor]:
    """Both images of a metric in the core's format: (1, 3, H, W) RGB in [-1, 1], float64."""
    check_choice('input_order', input_order, ('HWC', 'CHW'))
    return _tensor(img, input_order), _tensor(img2, input_order)


def _tensor(img: np.ndarray, input_order: str) -> Tensor:
    """To float64 RGB (1, 3, H, W) in [-1, 1]; a single channel is replicated."""
    x = torch.from_numpy(np.array(img)).double() / 127.5 - 1
    if x.ndim == 2:
        x = x[None]
    elif input_order == 'HWC':
        x = x.permute(2, 0, 1)
    return (x.expand(3, -1, -1) if x.shape[0] == 1 else x.flip(0))[None]


for _metric in (calculate_psnr_border, calculate_ssim_border):
    _metric.check_options = check_options  # lets models refuse a misspelt key before the work, not after
