"""BasicSR's own ``val.metrics``: for one image, and their means over a data set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from ..core.sections import nearest

UNREAD = ('basicsr.metrics.niqe', 'basicsr.metrics.psnr_ssim')  # metrics that take any argument, and look at none


def needs_truth(kind: str) -> bool:
    """Whether a registered metric compares with ground truth (``img2``), unlike NIQE."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(kind)).parameters


def images_of(kind: str) -> tuple[str, ...]:
    """The names under which a registered metric is given its images."""
    return ('img', 'img2') if needs_truth(kind) else ('img',)


def check_metrics(opt: Mapping[str, Any]) -> None:
    """Refuse a metric of ``val.metrics`` that is unknown or cannot be called, before the hours of work, not after.

    Raises:
        ValueError: the type is not in METRIC_REGISTRY, the metric does not take an argument, or lacks one.
    """
    metrics = (opt.get('val') or {}).get('metrics') or {}
    if not isinstance(metrics, Mapping):
        raise ValueError(f"'val.metrics' must be a section of metrics, got {metrics!r}")
    for name, options in metrics.items():
        where = f'val.metrics.{name}'
        if not isinstance(options, Mapping):
            raise ValueError(f"'{where}' must be a section with the metric's type, got {options!r}")
        kind = options.get('type')
        if kind not in METRIC_REGISTRY:
            raise ValueError(f"unknown metric {kind!r} in '{where}'{nearest(str(kind), METRIC_REGISTRY.keys())}")
        arguments = {key: value for key, value in options.items() if key != 'type'}
        check = getattr(METRIC_REGISTRY.get(kind), 'check_options', None)
        if check is not None:
            check(arguments)
        _check_call(where, kind, arguments)


def _check_call(where: str, kind: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a metric does not take, and the lack of one that it needs.

    What goes into ``**kwargs`` is the metric's affair, unless it is known to be passed over there: that is a misspelt
    argument. (``better`` goes there: BasicSR's own key, for its record of the best iteration.)
    """
    metric = METRIC_REGISTRY.get(kind)
    signature, images = inspect.signature(metric), images_of(kind)
    named = {p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    known = named - {*images} | ({'better'} if takes_any else set())
    for name in arguments:
        if name in images or name not in known and (not takes_any or metric.__module__ in UNREAD):
            raise ValueError(f"unknown option '{where}.{name}' of {kind}{nearest(str(name), known)}")
    try:
        signature.bind(**dict.fromkeys(images), **arguments)
    except TypeError as error:
        raise ValueError(f"'{where}' ({kind}): {error}") from error


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
