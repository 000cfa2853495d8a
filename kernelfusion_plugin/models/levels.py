"""Checks that options are at the level of the option file where they are read; elsewhere they have no effect.

Only for our own models, since other models may read any key. Sections of another of our models are accepted, because
option files are often derived from one another.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY

from ..core.config import KernelFusionConfig, own_sections
from ..core.sections import check_keys, nearest
from ..data.check import KEYS
from ..option_checks import TOP_LEVEL
from .options import GlueOptions

Places = Mapping[str, Collection[str]]

NETWORKS = ('network_g', 'network_d', 'network_r', 'network_k')  # network_d: for BasicSR's models
VAL = ('save_img', 'suffix', 'metrics', 'val_freq', 'pbar', 'flip_seq', 'center_frame_only', 'num_val_samples')
PATH = ('results_root', 'experiments_root', 'log', 'visualization', 'models', 'training_states', 'resume_state',
        'ignore_resume_networks', *(f'{key}_{net}' for key in ('pretrain_network', 'param_key', 'strict_load')
                                    for net in 'gd'))  # read by BasicSR or any of its models, like VAL


def places_of(section: str, *kinds: type) -> dict[str, set[str]]:
    """Keys of a section (fields of the dataclasses ``kinds``) and of its subsections, such as ``kernelfusion: em``."""
    places = {section: {field.name for kind in kinds for field in dataclasses.fields(kind)}}
    for kind in kinds:
        for key, nested in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(nested):
                places |= places_of(f'{section}: {key}', nested)
    return places


KERNELFUSION = places_of(GlueOptions.SECTION, GlueOptions, KernelFusionConfig)


def with_solvers(places: Places) -> Places:
    """The same with the sections of the solvers that an option file has imported, where they belong."""
    if GlueOptions.SECTION not in places:
        return places
    keys = set(places[GlueOptions.SECTION]) - {'own'} | own_sections().keys()
    return {**places, GlueOptions.SECTION: keys,
            **{f'{GlueOptions.SECTION}: {name}': set(vars(kind())) for name, kind in own_sections().items()}}


def check_levels(opt: Mapping[str, Any], own: Places) -> None:
    """Check an option file for one of our models for options that nothing would read.

    Args:
        own: keys of the model's own sections, see :func:`places_of`.

    Raises:
        ValueError: there is one; the message names it and where it belongs.
    """
    own = with_solvers(own)
    for key in opt:
        if str(key).startswith('network_') and key not in NETWORKS:
            raise ValueError(f'unknown option {key!r}{nearest(key, NETWORKS)}')
        belongs = _where(key, own) or _where(key, with_solvers(KERNELFUSION))
        if key not in TOP_LEVEL and belongs and not _is_anchor(opt, key, own):
            raise ValueError(f'unknown option {key!r}: did you mean {belongs}?')
    check_keys('val', opt['val'], VAL)
    check_keys('path', opt['path'], PATH)
    for name, dataset in opt['datasets'].items():
        _check_dataset(f'datasets:{name}', dataset, own)


def _is_anchor(opt: Mapping[str, Any], key: str, own: Places) -> bool:
    """Whether a section has the same key and value, as when a YAML anchor at the top level is used there."""
    for place in own:
        section: Any = opt
        for part in place.split(': '):
            section = (section or {}).get(part)
        if isinstance(section, Mapping) and key in section and section[key] == opt[key]:
            return True
    return False


def _check_dataset(where: str, options: Mapping[str, Any], own: Places) -> None:
    """Raise ValueError for keys of the model's own section in a data set, which does not read them."""
    if DATASET_REGISTRY.get(options['type']) not in KEYS:
        return
    for key in options:
        belongs = "'dataroot_kernel'" if key == 'kernel_dir' else _where(key, own)
        if belongs and not any(key in known for known in KEYS.values()):
            raise ValueError(f'{where}: unknown option {key!r}: did you mean {belongs}?')


def _where(key: object, places: Places) -> str:
    """The places to which a key belongs, for a message; '' if none."""
    return ' or '.join(repr(f'{place}: {key}') for place, keys in places.items() if key in keys)
