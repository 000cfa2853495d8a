"""Builds the networks that an option file names, and tries those of our solver before the work."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ..core.config import KernelFusionConfig
from ..core.faults import first_line, named
from ..core.sections import check_number, nearest, section_of
from ..core.solver import SUM_ERROR, Factory
from .options import plain

PROBE = (1, 3, 128, 128)  # shape of the input that networks are tested with


def build(key: str, options: Mapping[str, Any]) -> nn.Module:
    """Build the network of the section ``key`` like BasicSR's ``build_network``, but without its log line.

    Raises:
        ValueError: the type or an argument is unknown, or an argument has an invalid value; in one line.
    """
    arguments = copy.deepcopy(dict(options))
    kind = arguments.pop('type', None)
    check_network(key, kind)
    try:
        return ARCH_REGISTRY.get(kind)(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"'{key}' ({kind}): {first_line(error)}") from error


def check_network(key: str, kind: object) -> None:
    """Raise ValueError if the network type ``kind`` of the section ``key`` is unknown, naming the nearest known one."""
    if kind not in ARCH_REGISTRY:
        raise ValueError(f"unknown network {kind!r} in '{key}'{nearest(str(kind), ARCH_REGISTRY.keys())}")


def network_factories(opt: Mapping[str, Any], config: KernelFusionConfig
                      ) -> tuple[KernelFusionConfig, dict[str, Factory | None]]:
    """Zero-argument factories of PD, R and the kernel network for ``restore_steps``; None for the core's default.

    Missing arguments are filled in: PD's ``channels`` from the section (that is, the preset), and the kernel network's
    ``kernel_size`` and ``scale``. Channels given in network_g are copied into the configuration.

    Raises:
        ValueError: unknown type or argument, channels that contradict the section's, or a network whose output is
            unsuitable.
    """
    given = section_of(opt, 'network_g').get('channels')
    stated = ((opt.get('kernelfusion') or {}).get('prior') or {}).get('channels')
    if given is not None:
        check_number('network_g.channels', given, 1, whole=True)
        if stated is not None and given != config.prior.channels:
            raise ValueError(f"'network_g.channels' is {given}, but 'kernelfusion.prior.channels' is {stated}: "
                             'leave one of them out')
        config = dataclasses.replace(config, prior=dataclasses.replace(config.prior, channels=given))
    x, t, size = torch.zeros(PROBE), torch.zeros(1, dtype=torch.int64), (config.kernel_size, config.kernel_size)
    return config, {
        'make_patch_net': _factory(opt, 'network_g', {'channels': config.prior.channels}, lambda net: net.eval()(x, t),
                                   PROBE, 'forward(x_t, t) must return a tensor of the shape of x_t'),
        'make_refine_net': _factory(opt, 'network_r', {}, lambda net: net.eval()(x),
                                    PROBE, 'forward(x) must return a tensor of the shape of x'),
        'make_kernel_model': _factory(opt, 'network_k', {'kernel_size': size[0], 'scale': config.scale},
                                      lambda net: net(), size,
                                      f'forward() must return a kernel of shape {size}, finite, with the sum 1'),
    }


def _factory(opt: Mapping[str, Any], key: str, fill: Mapping[str, Any], probe: Callable[[nn.Module], object],
             shape: tuple[int, ...], wanted: str) -> Factory | None:
    """Factory of the network in the section ``key``; None without that section. A network is built and probed at once,
    so that a fault is not found after hours of Phase 1.
    """
    options = section_of(opt, key)
    if not options:
        return None
    kind = options.get('type')
    check_network(key, kind)
    accepted = inspect.signature(ARCH_REGISTRY.get(kind)).parameters
    options = {**{name: value for name, value in fill.items() if name in accepted}, **plain(options)}
    for name in ('kernel_size', 'scale'):
        if name in fill and options.get(name, fill[name]) != fill[name]:
            raise ValueError(f"'{key}.{name}' is {options[name]}, but this run uses {fill[name]}: remove it")
    if found := _output_fault(build(key, options), probe, shape):
        raise ValueError(f"'{key}' ({kind}): {wanted}, but {found}")
    return lambda: build(key, options)


def _output_fault(net: nn.Module, probe: Callable[[nn.Module], object], shape: tuple[int, ...]) -> str:
    """What ``probe(net)`` does instead of returning a finite tensor of that shape, a kernel if it is (K, K); '' if it
    does.
    """
    try:
        with torch.no_grad():
            out = probe(net)
    except Exception as error:  # noqa: BLE001  (the user's own network: any error is reported as a fault in the options)
        may_need_gpu = torch.cuda.is_available() and not isinstance(error, TypeError)
        return '' if may_need_gpu else f'raises {named(error)}'
    if not isinstance(out, Tensor):
        return f'returns {type(out).__name__}'
    if out.shape != shape:
        return f'returns shape {tuple(out.shape)}'
    if not out.isfinite().all():
        return 'returns values that are not finite'
    total = float(out.detach().sum())
    return f'returns the sum {total:.4g}' if len(shape) == 2 and abs(total - 1) > SUM_ERROR else ''
