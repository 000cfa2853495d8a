"""How option files and ``--force_yml`` are read, for the runs that use this package.

BasicSR's own reader takes ``1e-4`` for a string, sets with ``--force_yml`` only what the file has already, takes
``1e-3`` and ``-1`` there for strings, fails on a missing ``val``, ``path`` or ``num_gpu``, and (1.4.2) ignores
``path.results_root``. :func:`patch` puts :func:`parse_options` in its place. This one reads the file (and the ``base``
that it builds on, see :func:`read_file`), merges
``--force_yml`` into it, and hands BasicSR's reader the merged file; it relies on nothing but BasicSR's command line.

Only *our* runs are read this way: all that our launchers start, and in other programs (an unmodified BasicSR) the
option files with a section ``kernelfusion``, an ``import`` or a ``model_type`` of this package. Every other run is
BasicSR's alone.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from kernelfusion_plugin.core.faults import first_line

log = logging.getLogger(__name__)

_FLOAT = re.compile(r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$')
_WORDS = {'': None, '~': None, 'null': None, 'none': None, 'true': True, 'false': False,
          '.inf': float('inf'), '+.inf': float('inf'), '-.inf': -float('inf'), '.nan': float('nan')}
SECTIONS = ('kernelfusion', 'blinddiff', 'blind_sr', 'baseline')  # of our models
TOP_LEVEL = ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'datasets', 'path', 'val', 'train', 'logger',
             'dist', 'dist_params', 'find_unused_parameters', 'auto_resume', 'shard', 'base', 'import', *SECTIONS)
FAULTS = (ImportError, OSError, ValueError, yaml.YAMLError)  # what a fault in the options may raise
PHASES = ('train', 'val', 'test')
_every_run = False


class _FileLoader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, and in addition ``1e-4`` is a number."""


_FileLoader.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(r'[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$'),
                                  list('-+0123456789'))


class _ValueLoader(yaml.SafeLoader):
    """What a value of ``--force_yml`` may be: lists and mappings of numbers, booleans, null and strings."""

    yaml_implicit_resolvers: dict = {}


_ValueLoader.add_constructor('tag:yaml.org,2002:str', lambda loader, node:
                             node.value if node.style in ('"', "'") else _scalar(node.value))


def _scalar(text: str) -> bool | int | float | str | None:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r'[-+]?\d+', text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def parse_value(text: str) -> Any:
    """The value of ``key=text``: ``1e-3`` -1 ``[1, 2.5]`` ``{a: 1}`` true null; whatever else is a string."""
    try:
        return yaml.load(text, _ValueLoader) if text.lstrip()[:1] in ('[', '{', '"', "'", '!') else _scalar(text)
    except yaml.YAMLError:
        return text


def read_file(path: str | Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an option file, on top of the one that it names as ``base``.

    ``base: other.yml``, a path from the file's own folder, takes over all of that file's options; what this file gives
    goes over them, section by section (a network of another type takes over no arguments). A data set or a metric given
    as ``~`` is left out.

    Args:
        below: the files that are being read on top of this one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, not a mapping, or is its own base.
    """
    opt = _read_one(path)
    base = opt.pop('base', None)
    if base is not None:
        below = (*below, Path(path).resolve())
        beneath = Path(path).resolve().parent / str(base)
        if beneath.resolve() in below:
            raise ValueError(f'{path}: base: {base} leads back to this file')
        if not beneath.is_file():
            raise FileNotFoundError(f'{path}: base: there is no option file {base} beside it')
        opt = _over(read_file(beneath, below), opt)
    _leave_out(opt)
    return opt


def _leave_out(opt: dict[str, Any]) -> None:
    """Data sets, and metrics of ``val``, that are given as ``~``."""
    for section, key in ((opt, 'datasets'), (opt.get('val'), 'metrics')):
        if isinstance(section, dict) and isinstance(section.get(key), dict):
            section[key] = {name: value for name, value in section[key].items() if value is not None}


def _over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``: sections are merged, but a network with its type; everything else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        both = both and not (str(key).startswith('network') and 'type' in value)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _read_one(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no option file {path}')
    try:
        opt = yaml.load(Path(path).read_text(encoding='utf-8'), _FileLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not a YAML file: {" ".join(str(error).split())}') from error
    if not isinstance(opt, dict):
        raise ValueError(f'{path} must hold options (name: value), and holds {type(opt).__name__}')
    return opt


def apply_force_yml(opt: dict[str, Any], entries: list[str]) -> None:
    """Set ``a:b:c=value`` in ``opt``, each; sections that are missing are made, lists are indexed by number.

    Raises:
        ValueError: an entry has no ``=``, or names something below a value that is no section.
    """
    for entry in entries:
        keys, equals, text = entry.partition('=')
        *parents, last = [key.strip() for key in keys.split(':')]
        if not equals or not last or not all(parents):
            raise ValueError(f'--force_yml takes section:option=value, got {entry!r}')
        section: Any = opt
        for depth, key in enumerate(parents):
            if isinstance(section, dict) and section.get(key) is None:
                section[key] = {}
            section = section[_index(section, key, entry)]
            if not isinstance(section, (dict, list)):
                raise ValueError(f'--force_yml {entry}: {":".join(parents[:depth + 1])} is {section!r}, not a section')
        section[_index(section, last, entry)] = parse_value(text.strip())


def _index(section: dict | list, key: str, entry: str) -> str | int:
    if isinstance(section, dict):
        return key
    if not key.isdigit() or int(key) >= len(section):
        raise ValueError(f'--force_yml {entry}: {key} must be 0 to {len(section) - 1}, the place in a list')
    return int(key)


def with_defaults(opt: dict[str, Any], path: str) -> dict[str, Any]:
    """Fill in what BasicSR would miss with a KeyError; name what cannot be filled in.

    Raises:
        ValueError: ``name``, ``model_type`` or ``datasets`` is missing; an option at the top level has a name that is
            almost a known one (others may belong to other models); ``name`` is no folder's, a seed no number, ``path``
            or ``val`` no section.
    """
    from kernelfusion_plugin.files import check_folder_name
    for key in opt:
        near = difflib.get_close_matches(str(key), TOP_LEVEL, n=1, cutoff=0.8)
        if near and key not in TOP_LEVEL and not str(key).startswith('network_'):  # of which models have what they like
            raise ValueError(f'{path}: unknown option {key!r}: did you mean {near[0]!r}?')
    missing = [key for key in ('name', 'model_type', 'datasets') if not opt.get(key)]
    if missing:
        raise ValueError(f'{path}: {", ".join(missing)} must be given')
    if not isinstance(opt['datasets'], dict):
        raise ValueError(f"{path}: 'datasets' must be a section of data sets, got {opt['datasets']!r}")
    _leave_out(opt)
    seed = opt.get('manual_seed')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"{path}: 'manual_seed' must be a whole number, got {seed!r}")
    for section in (opt, *opt['datasets'].values()):
        if isinstance(section, dict) and section.get('name') is not None:
            section['name'] = str(section['name'])  # folders bear it
    check_folder_name(f"{path}: 'name'", opt['name'])  # BasicSR renames the folder of that name, whatever it is
    opt.setdefault('num_gpu', 'auto')
    for section in ('path', 'val'):
        opt[section] = opt.get(section) or {}
        if not isinstance(opt[section], dict):
            raise ValueError(f'{path}: {section!r} must be a section of options, got {opt[section]!r}')
    opt['val'].setdefault('save_img', True)
    return opt


def import_modules(opt: dict[str, Any], path: str) -> None:
    """Import what ``import:`` names, a module or several: code of the user's own that enters models, networks, metrics
    and data sets into BasicSR's registries. It lies in the folder that the user runs in, or is installed.

    Raises:
        ValueError: there is no such module, or it cannot be imported; in one line that names the place.
    """
    names = opt.get('import') or []
    for name in [names] if isinstance(names, str) else names if isinstance(names, list) else [None]:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split('.'))) or name.endswith('.py'):
            raise ValueError(f"{path}: 'import' must be the name of a module, or a list of names, such as my_methods "
                             f'for my_methods.py, got {names!r}')
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: no file in there shall hide a package
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  (the user's own code)
            if isinstance(error, ModuleNotFoundError) and f'{name}.'.startswith(f'{error.name}.'):
                raise ValueError(f'{path}: import: there is no module {name} in {os.getcwd()}, and none is '
                                 'installed') from error
            frames = [*traceback.extract_tb(error.__traceback__)]
            while any(frame.filename.startswith('<frozen') for frame in frames):  # the first behind is the module's own
                frames.pop(0)
            place = f' ({frames[0].filename}, line {frames[0].lineno})' if frames else ''
            raise ValueError(f'{path}: import: {name} ends in {type(error).__name__}: {first_line(error)}{place}'
                             ) from error


def check_parts(opt: dict[str, Any], path: str) -> None:
    """Refuse models and data sets that nobody has registered, folders that are not there, and what else is wrong with a
    data set of a known type.

    Raises:
        ValueError: in one line that names the option.
    """
    from basicsr.utils.registry import MODEL_REGISTRY

    from kernelfusion_plugin.core.sections import nearest
    if not _registered(opt['model_type'], MODEL_REGISTRY):
        raise ValueError(f'{path}: unknown model_type {opt["model_type"]!r}'
                         f'{nearest(str(opt["model_type"]), MODEL_REGISTRY.keys())}')
    for key, dataset in opt['datasets'].items():
        try:
            _check_dataset(key, dataset, opt.get('scale'))
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error


def _check_dataset(key: object, dataset: object, scale: int | None) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY

    from kernelfusion_plugin.core.sections import nearest
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


def check_model(opt: dict[str, Any], path: str, is_train: bool) -> None:
    """Have one of our models read its options, so that what it refuses is known before BasicSR makes the folders.

    Raises:
        ValueError: in one line that names the file and the option.
    """
    from basicsr.utils.registry import MODEL_REGISTRY
    model = MODEL_REGISTRY.get(opt['model_type'])
    if not hasattr(model, 'read_options'):
        return  # somebody else's model
    try:
        if _is_our_model(opt['model_type']):
            from kernelfusion_plugin.models.levels import check_levels
            check_levels(opt, model.places())
        model.read_options({**opt, 'is_train': is_train})
    except ValueError as error:
        raise ValueError(f'{path}: {" ".join(str(error).split())}') from error


def tell_of_unread(model_type: str, entries: list[str]) -> None:
    """One line where ``--force_yml`` sets what another of our models would read. In a file that is as it should be: it
    may build on another model's.
    """
    from basicsr.utils.registry import MODEL_REGISTRY
    if not _is_our_model(model_type):
        return
    own = {place.partition(':')[0] for place in MODEL_REGISTRY.get(model_type).places()}
    unread = [entry for entry in entries if entry.partition(':')[0].strip() in set(SECTIONS) - own]
    if unread:
        log.warning(f'--force_yml {" ".join(unread)}: makes no difference to {model_type}, whose options are in the '
                    f'section {", ".join(own)}')


def _registered(name: object, registry: Any) -> bool:  # noqa: ANN401
    return isinstance(name, str) and (name in registry or f'{name}_basicsr' in registry)  # as Registry.get looks it up


def claim_every_run() -> None:
    """Read every option file of this process in our way: for our launchers."""
    global _every_run
    _every_run = True


def patch(module: ModuleType) -> None:
    """Put our reader before ``parse_options`` of ``basicsr.utils.options``; once."""
    original = module.parse_options
    if not hasattr(original, '__wrapped__'):
        module.parse_options = functools.wraps(original)(functools.partial(_parse_or_exit, original))


def _parse_or_exit(original: Callable[..., tuple], root_path: str, is_train: bool = True) -> tuple:
    """:func:`parse_options`. In a program that is not ours, a fault in the options of a run of ours is told in one
    line, and ends the program with status 2, as a fault in its command line does.
    """
    from kernelfusion_plugin import launch
    try:
        return parse_options(original, root_path, is_train)
    except FAULTS as error:
        if _every_run or not _is_ours(_command_line()[0]) or not launch.told(error):
            raise
        raise SystemExit(2) from error


def parse_options(original: Callable[..., tuple], root_path: str, is_train: bool = True) -> tuple:
    """What BasicSR's ``parse_options`` returns, with the differences that the module's docstring lists.

    Results (``results/<name>``, or ``experiments/<name>``) go under the folder that the user runs in, or exactly to
    ``path.results_root`` (``path.experiments_root``) where it is given, as in BasicSR's master. A test with
    ``shard: 3/8`` has the folder ``…_3of8``.
    """
    arguments, others = _command_line()
    if not _is_ours(arguments):
        return original(root_path, is_train=is_train)
    import basicsr.utils.options as toolbox
    from basicsr.utils import set_random_seed

    from kernelfusion_plugin import compat, distributed
    compat.register()  # the hook has tried this in silence; if it failed, here the user learns why
    opt = read_file(arguments.opt)
    apply_force_yml(opt, arguments.force_yml or [])
    key = 'experiments_root' if is_train else 'results_root'
    root = with_defaults(opt, arguments.opt)['path'].pop(key, None)
    import_modules(opt, arguments.opt)
    check_parts(opt, arguments.opt)
    check_model(opt, arguments.opt, is_train)
    if is_train and opt['val'].get('val_freq') is None:
        opt['val']['val_freq'] = float('inf')  # never
    suffix = '' if is_train else _shard_suffix(opt)
    toolbox.init_dist = distributed.init_dist
    with _replaced_command_line(opt, others):
        opt, args = original(os.getcwd(), is_train=is_train)
    args.opt, args.force_yml = arguments.opt, arguments.force_yml
    if opt['rank'] == 0:
        tell_of_unread(opt['model_type'], arguments.force_yml or [])
    if not opt['dist']:
        distributed.check_alone(os.environ)
    elif not is_train:
        set_random_seed(opt['manual_seed'])  # BasicSR adds the rank: for training
    if root is not None or suffix:
        old = opt['path'][key]
        _move_output(opt['path'], old, os.path.abspath(os.path.expanduser(str(root or old))) + suffix)
    return opt, args


def _command_line() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--force_yml', nargs='+')
    return parser.parse_known_args()


def _is_ours(arguments: argparse.Namespace) -> bool:
    """Whether this run is ours; looks at the file without making its values, as it may be anybody's."""
    if _every_run or not arguments.opt:
        return bool(arguments.opt)
    top, entries = _top(Path(arguments.opt)), arguments.force_yml or []
    top.update((entry.partition('=')[0].strip().partition(':')[0], entry.partition('=')[2].strip())
               for entry in entries)
    return 'kernelfusion' in top or 'import' in top or _is_our_model(top.get('model_type'))


def _top(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The top level of an option file over that of its ``base``, as far as they can be read; values as YAML nodes have
    them.
    """
    try:
        root = yaml.compose(path.read_text(encoding='utf-8'), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(root, yaml.MappingNode):
        return {}
    top = {key.value: value.value for key, value in root.value if isinstance(key.value, str)}
    below = (*below, path.resolve())
    beneath = path.resolve().parent / top['base'] if isinstance(top.get('base'), str) else path
    return {**({} if beneath.resolve() in below else _top(beneath, below)), **top}


def _is_our_model(name: object) -> bool:
    from basicsr.utils.registry import MODEL_REGISTRY
    model = MODEL_REGISTRY.get(name) if str(name) in MODEL_REGISTRY else None
    return getattr(model, '__module__', '').startswith('kernelfusion_plugin.')


def _shard_suffix(opt: dict[str, Any]) -> str:
    """What ``shard: 3/8`` adds to the name of the folder of results: ``_3of8``; '' without."""
    if not opt.get('shard'):
        return ''
    from kernelfusion_plugin.sharing import parse_shard
    number, count = parse_shard(opt['shard'])
    if not _is_our_model(opt['model_type']):
        raise ValueError(f'shard: {opt["model_type"]} cannot do a part of its images')
    return f'_{number}of{count}'


@contextmanager
def _replaced_command_line(opt: dict[str, Any], others: list[str]) -> Iterator[None]:
    """``-opt`` names a file with the merged options; the rest of the command line stays as it is."""
    before = sys.argv
    with tempfile.TemporaryDirectory(prefix='kernelfusion_') as folder:
        merged = Path(folder, 'merged.yml')
        merged.write_text(yaml.safe_dump(opt, sort_keys=False, allow_unicode=True), encoding='utf-8')
        sys.argv = [before[0], '-opt', str(merged), *others]
        try:
            yield
        finally:
            sys.argv = before


def _move_output(paths: dict[str, Any], old: str, new: str) -> None:
    """Change the folder of this run: every path that BasicSR derived from it starts with it."""
    for key, value in paths.items():
        if isinstance(value, str) and (value == old or value.startswith(old + os.sep)):
            paths[key] = new + value[len(old):]
