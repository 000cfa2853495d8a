"""BasicSR's own ``val.metrics``: for one image, and their means over a data set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor


def needs_truth(kind: str) -> bool:
    """Whether a registered metric compares with ground truth (``img2``), unlike NIQE."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(kind)).parameters


def image_metrics(metrics: Mapping[str, Mapping[str, Any]] | None, visuals: Mapping[str, Tensor]) -> dict[str, float]:
    """Values of ``val.metrics`` for one image, by their names; those that need ground truth only where it is."""
    data = {'img': tensor2img([visuals['result']])}
    if 'gt' in visuals:
        data['img2'] = tensor2img([visuals['gt']])
    values = {}
    for name, options in (metrics or {}).items():
        compares = needs_truth(options['type'])
        if 'gt' in visuals or not compares:
            given = data if compares else {'img': data['img']}
            values[name] = float(calculate_metric(given, options))
    return values
