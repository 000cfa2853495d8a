"""Whether options stand where they are read: a key at another level of the option file is nobody's, and says nothing.

Of our own models alone: what others read, only they know. A section of another of our models is let through, since
option files build on one another.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY

from ..core.config import KernelFusionConfig
from ..core.sections import nearest
from ..data.check import KEYS
from ..option_checks import TOP_LEVEL
from .options import GlueOptions

Places = Mapping[str, Collection[str]]

NETWORKS = ('network_g', 'network_d', 'network_r', 'network_k')  # network_d: of BasicSR's models
VAL = ('save_img', 'suffix', 'metrics', 'val_freq', 'pbar', 'flip_seq', 'center_frame_only', 'num_val_samples')
PATH = ('results_root', 'experiments_root', 'log', 'visualization', 'models', 'training_states', 'resume_state',
        'ignore_resume_networks', *(f'{key}_{net}' for key in ('pretrain_network', 'param_key', 'strict_load')
                                    for net in 'gd'))  # of BasicSR and all its models, as VAL is


def places_of(section: str, *kinds: type) -> dict[str, set[str]]:
    """The keys of a section, fields of the dataclasses ``kinds``, and of those within it: ``kernelfusion: em``."""
    places = {section: {field.name for kind in kinds for field in dataclasses.fields(kind)}}
    for kind in kinds:
        for key, nested in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(nested):
                places |= places_of(f'{section}: {key}', nested)
    return places


KERNELFUSION = places_of(GlueOptions.SECTION, GlueOptions, KernelFusionConfig)


def check_levels(opt: Mapping[str, Any], own: Places) -> None:
    """Refuse what nobody would read, of an option file for one of our models.

    Args:
        own: the keys of the model's own sections, see :func:`places_of`.

    Raises:
        ValueError: in one line that names the option and where it belongs.
    """
    for key in opt:
        if str(key).startswith('network_') and key not in NETWORKS:
            raise ValueError(f'unknown option {key!r}{nearest(key, NETWORKS)}')
        belongs = _where(key, own) or _where(key, KERNELFUSION)
        if key not in TOP_LEVEL and belongs and not _is_anchor(opt, key, own):
            raise ValueError(f'unknown option {key!r}: did you mean {belongs}?')
    for section, known in (('val', VAL), ('path', PATH)):
        for key in opt[section]:
            if key not in known:
                raise ValueError(f"unknown option '{section}.{key}'{nearest(str(key), known)}")
    for name, dataset in opt['datasets'].items():
        _check_dataset(f'datasets:{name}', dataset, own)


def _is_anchor(opt: Mapping[str, Any], key: str, own: Places) -> bool:
    """Whether a section has the same key with the same value, as where YAML's & names it and * takes it there."""
    for place in own:
        section: Any = opt
        for part in place.split(': '):
            section = (section or {}).get(part)
        if isinstance(section, Mapping) and key in section and section[key] == opt[key]:
            return True
    return False


def _check_dataset(where: str, options: Mapping[str, Any], own: Places) -> None:
    """Keys of the model's section, in a data set that does not read them."""
    if DATASET_REGISTRY.get(options['type']) not in KEYS:
        return
    for key in options:
        belongs = "'dataroot_kernel'" if key == 'kernel_dir' else _where(key, own)
        if belongs and not any(key in known for known in KEYS.values()):
            raise ValueError(f'{where}: unknown option {key!r}: did you mean {belongs}?')


def _where(key: object, places: Places) -> str:
    """The places that have a key, for a message; '' if none has."""
    return ' or '.join(repr(f'{place}: {key}') for place, keys in places.items() if key in keys)
