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


def images_of(kind: str) -> tuple[str, ...]:
    """The names under which a registered metric is given its images."""
    return ('img', 'img2') if needs_truth(kind) else ('img',)


def image_metrics(metrics: Mapping[str, Mapping[str, Any]] | None, visuals: Mapping[str, Tensor]
                  ) -> tuple[dict[str, float], dict[str, Exception]]:
    """Values of ``val.metrics`` for one image, by their names; those that need ground truth only where it is.

    Returns:
        The values, and the errors of metrics that have none.
    """
    data = {'img': tensor2img([visuals['result']])}
    if 'gt' in visuals:
        data['img2'] = tensor2img([visuals['gt']])
    values, errors = {}, {}
    for name, options in (metrics or {}).items():
        images = images_of(options['type'])
        if all(image in data for image in images):
            try:
                values[name] = float(calculate_metric({image: data[image] for image in images}, options))
            except Exception as error:  # noqa: BLE001  (anybody's code: it must not cost the image its row)
                errors[name] = error
    return values, errors
