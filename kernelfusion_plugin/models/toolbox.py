"""BasicSR's own ``val.metrics``: checks them and computes them for an image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from ..core.sections import nearest

UNREAD = ('basicsr.metrics.niqe', 'basicsr.metrics.psnr_ssim')  # their metrics accept any keyword but ignore it


def images_of(kind: str) -> tuple[str, ...]:
    """Names of the image arguments of a registered metric; ``img2``, ground truth, is not among those of NIQE."""
    return ('img', 'img2') if 'img2' in inspect.signature(METRIC_REGISTRY.get(kind)).parameters else ('img',)


def check_metrics(opt: Mapping[str, Any]) -> None:
    """Check ``val.metrics`` before hours of work rather than after.

    Raises:
        ValueError: a type is not in METRIC_REGISTRY, or an argument is unknown or missing.
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
    """Raise ValueError for arguments that a metric does not take or lacks.

    Any keyword is accepted if the metric has ``**kwargs``, except in metrics known to ignore them, where it is probably
    misspelt. (``better`` is accepted: BasicSR's own key, for its record of the best iteration.)
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
    """Compute ``val.metrics`` for one image; those that need ground truth are skipped if there is none.

    Returns:
        Values and errors, each by the metric's name.
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
            except Exception as error:  # noqa: BLE001  (third-party code, which must not cost the image its row)
                errors[name] = error
    return values, errors
