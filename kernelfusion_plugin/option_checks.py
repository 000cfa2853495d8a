"""Checks the options of a run before BasicSR makes the run's folders; a fault is one line without the file's name."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from .core.faults import named
from .core.sections import nearest, section_of

log = logging.getLogger(__name__)

SECTIONS = ('kernelfusion', 'blinddiff', 'blind_sr', 'baseline')  # those of our models
TOP_LEVEL = ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'datasets', 'path', 'val', 'train', 'logger',
             'dist', 'dist_params', 'find_unused_parameters', 'auto_resume', 'shard', 'base', 'import', *SECTIONS)
PHASES = ('train', 'val', 'test')


def check_top_level(opt: dict[str, Any]) -> None:
    """Check the top level of the options.

    Raises:
        ValueError: ``name``, ``model_type`` or ``datasets`` is missing; a top-level option has a name that is
            almost a known one (others may belong to other models); ``name`` is not a valid folder name, a seed is not a
            whole number, or ``path`` or ``val`` is not a section.
    """
    from kernelfusion_plugin.files import check_folder_name
    for key in opt:
        near = difflib.get_close_matches(str(key), TOP_LEVEL, n=1, cutoff=0.8)
        if near and key not in TOP_LEVEL and not str(key).startswith('network_'):  # models choose these
            raise ValueError(f'unknown option {key!r}: did you mean {near[0]!r}?')
    missing = [key for key in ('name', 'model_type', 'datasets') if not opt.get(key)]
    if missing:
        raise ValueError(f'{", ".join(missing)} must be given')
    if not isinstance(opt['datasets'], dict):
        raise ValueError(f"'datasets' must be a section of data sets, got {opt['datasets']!r}")
    seed = opt.get('manual_seed')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"'manual_seed' must be a whole number, got {seed!r}")
    check_folder_name("'name'", str(opt['name']))  # BasicSR renames the folder of that name, whatever it is
    for section in ('path', 'val'):
        section_of(opt, section)


def import_modules(opt: dict[str, Any]) -> None:
    """Import the module or modules that ``import:`` names: the user's own code, which registers models, networks,
    metrics and data sets with BasicSR. It is in the folder that the user runs in, or is installed.

    Raises:
        ValueError: there is no such module, or it cannot be imported; in one line with the place of the error.
    """
    names = opt.get('import') or []
    for name in [names] if isinstance(names, str) else names if isinstance(names, list) else [None]:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split('.'))) or name.endswith('.py'):
            raise ValueError("'import' must be the name of a module, or a list of names, such as my_methods "
                             f'for my_methods.py, got {names!r}')
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no file in there hides a package
        try:
            taken = getattr(importlib.import_module(name), '__file__', None) or ''
        except (Exception, SystemExit) as error:  # noqa: BLE001  (the user's own code)
            if isinstance(error, ModuleNotFoundError) and f'{name}.'.startswith(f'{error.name}.'):
                raise ValueError(f'import: there is no module {name} in {os.getcwd()}, and none is '
                                 'installed') from error
            frames = [*traceback.extract_tb(error.__traceback__)]
            while any(frame.filename.startswith('<frozen') for frame in frames):  # the next one is the module's own
                frames.pop(0)
            place = f' ({frames[0].filename}, line {frames[0].lineno})' if frames else ''
            raise ValueError(f'import: {name} ends in {named(error)}{place}') from error
        own = module_here(name)
        if own is not None and not os.path.realpath(taken).startswith(os.path.realpath(own)):
            log.warning(f'import: {name} is the one that is installed ({taken or "a part of Python"}), not '
                        f'{own} here: rename that')


def module_here(name: str) -> Path | None:
    """The module's file, or package folder, in the working folder; None if there is neither."""
    folder = Path(*name.split('.'))
    file = folder.parent / f'{folder.name}.py'
    return folder if os.path.isfile(folder / '__init__.py') else file if os.path.isfile(file) else None


def check_parts(opt: dict[str, Any]) -> None:
    """Refuse models and data sets that are not registered, missing folders, and anything else wrong with a data set of
    a known type.

    Raises:
        ValueError: in one line that names the option.
    """
    from basicsr.utils.registry import MODEL_REGISTRY

    if not _registered(opt['model_type'], MODEL_REGISTRY):
        raise ValueError(f'unknown model_type {opt["model_type"]!r}'
                         f'{nearest(str(opt["model_type"]), MODEL_REGISTRY.keys())}')
    for key, dataset in opt['datasets'].items():
        _check_dataset(key, dataset, opt.get('scale'))


def _check_dataset(key: object, dataset: object, scale: int | None) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY

    from kernelfusion_plugin.data.check import check_section
    where = f'datasets:{key}'
    if not isinstance(dataset, dict):
        raise ValueError(f'{where} must be a section of options, got {dataset!r}')
    if str(key).partition('_')[0] not in PHASES:
        raise ValueError(f'{where}: a data set goes by {", ".join(PHASES)}, or one of these with _ and more: test_1')
    missing = [name for name in ('name', 'type') if not dataset.get(name)]
    if missing:
        raise ValueError(f'{where}: {", ".join(missing)} must be given')
    if not _registered(dataset['type'], DATASET_REGISTRY):
        raise ValueError(f'{where}: unknown type {dataset["type"]!r}'
                         f'{nearest(str(dataset["type"]), DATASET_REGISTRY.keys())}')
    for name in ('dataroot_gt', 'dataroot_lq'):
        place = dataset.get(name)
        if isinstance(place, str) and '://' not in place and not Path(place).expanduser().exists():
            raise ValueError(f'{where}:{name}: there is no {place} here; "make demo" and "kernelfusion make-dataset" '
                             f'make data sets, --force_yml datasets:{key}:{name}=… names your own')
    check_section(key, dataset, scale)


def check_model(opt: dict[str, Any], is_train: bool) -> None:
    """Have one of our models read its options, so that it refuses bad ones before BasicSR makes the folders.

    Raises:
        ValueError: in one line that names the option.
    """
    from basicsr.utils.registry import MODEL_REGISTRY
    model = MODEL_REGISTRY.get(opt['model_type'])
    if not hasattr(model, 'read_options'):
        return  # someone else's model
    if is_our_model(opt['model_type']):
        from kernelfusion_plugin.models.levels import check_levels
        check_levels(opt, model.PLACES)
    model.read_options({**opt, 'is_train': is_train})


def tell_of_unread(model_type: str, entries: list[str]) -> None:
    """Warn in one line if ``--force_yml`` sets what only another of our models reads. In a file that is legitimate: it
    may build on another model's.
    """
    from basicsr.utils.registry import MODEL_REGISTRY
    if not is_our_model(model_type):
        return
    own = {place.partition(':')[0] for place in MODEL_REGISTRY.get(model_type).PLACES}
    unread = [entry for entry in entries if entry.partition(':')[0].strip() in set(SECTIONS) - own]
    if unread:
        log.warning(f'--force_yml {" ".join(unread)}: makes no difference to {model_type}, whose options are in the '
                    f'section {", ".join(own)}')


def _registered(name: object, registry: Any) -> bool:  # noqa: ANN401
    return isinstance(name, str) and (name in registry or f'{name}_basicsr' in registry)  # as Registry.get does


def is_our_model(name: object) -> bool:
    from basicsr.utils.registry import MODEL_REGISTRY
    model = MODEL_REGISTRY.get(name) if str(name) in MODEL_REGISTRY else None
    return getattr(model, '__module__', '').startswith('kernelfusion_plugin.')
