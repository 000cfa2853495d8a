"""BasicSR's reader of options, for the runs that use this package.

BasicSR's own reader (1.4.2) misreads numbers (see :mod:`.option_files`), fails on a missing ``val``, ``path`` or
``num_gpu``, and ignores ``path.results_root``. :func:`patch` puts :func:`parse_options` in its place. Ours reads
the option file and its ``base``, merges ``--force_yml`` into it, checks the result, and hands the merged file to
BasicSR's reader; it relies on nothing but BasicSR's command line.

Only the options of *our* runs are read this way: all runs that our launchers start, and in other programs (an
unmodified BasicSR) those whose options have a section ``kernelfusion``, an ``import`` or a ``model_type`` of this
package. Every other run is left to BasicSR.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .core.faults import prefixed
from .option_checks import check_model, check_parts, check_top_level, import_modules, is_our_model, tell_of_unread
from .option_files import apply_force_yml, fill_in, read_file, top_level

FAULTS = (ImportError, OSError, ValueError, yaml.YAMLError)  # what a fault in the options may raise
_every_run = False


def claim_every_run() -> None:
    """Read every option file of this process our way; called by our launchers."""
    global _every_run
    _every_run = True


def patch(module: ModuleType) -> None:
    """Wrap ``parse_options`` of ``basicsr.utils.options`` in our reader, at most once."""
    original = module.parse_options
    if not hasattr(original, '__wrapped__'):
        module.parse_options = functools.wraps(original)(functools.partial(_parse_or_exit, original))


def _parse_or_exit(original: Callable[..., tuple], root_path: str, is_train: bool = True) -> tuple:
    """:func:`parse_options`. A fault in the options of a run of ours is reported in one line and ends the program with
    status 2, as a fault in its command line does.
    """
    from kernelfusion_plugin import launch
    try:
        return parse_options(original, root_path, is_train)
    except FAULTS as error:
        if not _is_ours(_command_line()[0]) or not launch.told(error):
            raise
        raise SystemExit(2) from error


def parse_options(original: Callable[..., tuple], root_path: str, is_train: bool = True) -> tuple:
    """What BasicSR's ``parse_options`` returns, with the differences that the module's docstring lists.

    Results (``results/<name>``, or ``experiments/<name>``) go under the folder that the user runs in, or exactly to
    ``path.results_root`` (``path.experiments_root``) if given, as in BasicSR's master. The folder of a test with
    ``shard: 3/8`` is ``…_3of8``.
    """
    arguments, others = _command_line()
    if not _is_ours(arguments):
        return original(root_path, is_train=is_train)
    import basicsr.utils.options as toolbox
    from basicsr.utils import set_random_seed

    from kernelfusion_plugin import compat, distributed
    compat.register()  # the hook has tried this silently; if it failed, the user learns why here
    opt = read_file(arguments.opt)
    apply_force_yml(opt, arguments.force_yml or [])
    key = 'experiments_root' if is_train else 'results_root'
    with prefixed(arguments.opt):
        check_top_level(opt)
        fill_in(opt)
        root = opt['path'].pop(key, None)
        import_modules(opt)
        check_parts(opt)
        check_model(opt, is_train)
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
        set_random_seed(opt['manual_seed'])  # BasicSR adds the rank, which only training needs
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
    """Whether this run is ours; inspects the file without constructing its values, as it may be anyone's."""
    if _every_run or not arguments.opt:
        return bool(arguments.opt)
    top, entries = top_level(Path(arguments.opt)), arguments.force_yml or []
    top.update((entry.partition('=')[0].strip().partition(':')[0], entry.partition('=')[2].strip())
               for entry in entries)
    return 'kernelfusion' in top or 'import' in top or is_our_model(top.get('model_type'))


def _shard_suffix(opt: dict[str, Any]) -> str:
    """What ``shard: 3/8`` adds to the name of the results folder: ``_3of8``; '' without a shard."""
    if not opt.get('shard'):
        return ''
    from kernelfusion_plugin.sharing import parse_shard
    number, count = parse_shard(opt['shard'])
    if not is_our_model(opt['model_type']):
        raise ValueError(f'shard: {opt["model_type"]} cannot do a part of its images')
    return f'_{number}of{count}'


@contextmanager
def _replaced_command_line(opt: dict[str, Any], others: list[str]) -> Iterator[None]:
    """``-opt`` names a file with the merged options; the rest of the command line is unchanged."""
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
    """Change the folder of this run, with which every path that BasicSR derived from it starts."""
    for key, value in paths.items():
        if isinstance(value, str) and (value == old or value.startswith(old + os.sep)):
            paths[key] = new + value[len(old):]
