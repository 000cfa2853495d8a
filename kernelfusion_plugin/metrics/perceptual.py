"""LPIPS for BasicSR's METRIC_REGISTRY; needs the package lpips. (NIQE is in BasicSR: ``calculate_niqe``.)"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.faults import first_line
from ..core.metrics import crop_border
from ..core.sections import check_choice
from .border import BORDER, check_options, read_border, to_pair

NETS = ('alex', 'vgg', 'squeeze')


def calculate_lpips(img: np.ndarray, img2: np.ndarray, border: float | int = BORDER, net: str = 'alex',
                    input_order: str = 'HWC', **options: Any) -> float:  # noqa: ANN401
    """Learned perceptual distance (Zhang et al. 2018), version 0.1; 0 for identical images, lower is better.

    Args:
        img, img2, border, input_order, **options: as for :func:`.border.calculate_psnr_border`; all channels count.
        net: ``alex`` (recommended by the authors for scores), ``vgg`` or ``squeeze``.

    Raises:
        ValueError: lpips or its network's weights are missing, or an option is invalid.
    """
    _check({'net': net, **options})
    x, x_true = (crop_border(z, read_border(border)).float() for z in to_pair(img, img2, input_order))
    with torch.no_grad():
        return float(_network(net)(x, x_true))


def _check(options: Mapping[str, Any]) -> None:
    """Raise ValueError before the work for whatever would fail later, including a missing package or weights."""
    net = options.get('net', 'alex')
    check_choice('net of calculate_lpips', net, NETS)
    check_options({key: value for key, value in options.items() if key != 'net'})
    _network(net)


@functools.lru_cache(maxsize=len(NETS))
def _network(net: str) -> nn.Module:
    """The network, built once; lpips downloads its weights at the first use."""
    try:
        return importlib.import_module('lpips').LPIPS(net=net, verbose=False).eval()
    except ImportError as error:
        raise ValueError("calculate_lpips needs lpips: pip install 'kernelfusion-plugin[perceptual]'") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f'calculate_lpips: the weights of {net} are not available: '
                         f'{first_line(error)}') from error


calculate_lpips.check_options = _check
