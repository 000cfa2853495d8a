"""Runs a method in its own process, as a user would, or reuses the results of an earlier run.

``DIR/runs`` has, for each method, ``SLUG.yml`` (its options), ``SLUG.log``, ``SLUG/`` (its results) and ``SLUG.json``,
the record of a completed run: digest, status, seconds, versions, files. Results are reused if the digest of options and
input files matches the record and all files still exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml

from ... import report, runlog
from ...atomic import write_text_atomically
from ...checkpoints import code_digest
from ...option_checks import module_here
from .methods import Method

NOT_FILES = ('name', 'type', 'suffix', 'prior_dir')  # prior_dir: the run itself writes there
CHUNK = 1 << 20  # bytes read at a time
INCOMPLETE = 1  # exit status of a run in which some images failed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The run of one method.

    Attributes:
        status: exit status of the process.
        digest: digest of options and input files, see :func:`digest`.
        seconds: wall time of the process, including start-up.
        made: provenance: date, commit, versions, device.
        files: files that it wrote to its folder.
        reused: the results are from an earlier run.
    """

    status: int
    digest: str
    seconds: float
    made: Mapping[str, Any]
    files: tuple[str, ...] = ()
    reused: bool = field(default=False, compare=False)


def run(method: Method, root: Path, fresh: bool = False) -> Run:
    """Run a method with results in ``root/SLUG``, or reuse those there if they match.

    A failing method does not raise: see :attr:`Run.status`, and :func:`reason` for a line about it.
    """
    record, now = root / f'{method.slug}.json', digest(method.opt)
    if not fresh:
        known = _recorded(record, root / method.slug)
        if known is not None and known.digest == now:
            other = known.made.get('code') != code_digest()
            log.info(f'{method.label}: reusing results of {known.made["date"]} with the same options and data'
                     + (' (but from other code of this package; --fresh runs all again)' if other else ''))
            return known
    record.unlink(missing_ok=True)  # it is about to become invalid
    _put_aside(root / method.slug)
    log.info(f'{method.label}: running, see {root / method.slug}.log')
    start = time.perf_counter()
    status = _start(method, root)
    seconds, gpu = time.perf_counter() - start, torch.cuda.is_available() and method.opt['num_gpu'] != 0
    done = Run(status, now, seconds, _environment(gpu), _files(root / method.slug))
    log.info(f'{method.label}: ' + (f'{done.seconds:.0f} seconds' if not status else reason(method, done, root)))
    if status == 0 or (status == INCOMPLETE and 'summary.json' in done.files):  # a crash also has status 1
        text = json.dumps({key: value for key, value in asdict(done).items() if key != 'reused'}, indent=2)
        write_text_atomically(record, text)
    return done


def digest(opt: Mapping[str, Any]) -> str:
    """sha256 of the options and of every file that they name.

    For folders, the files directly in them count; for ``import``, the modules and packages in the working folder.
    """
    total = hashlib.sha256(json.dumps(opt, sort_keys=True, default=str).encode())
    for path in sorted(set(_named_paths(opt))):
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
        for file in files:
            if file.name != 'lock.mdb':  # an LMDB's reader table
                total.update(os.fsencode(file.name) + _file_digest(file))
    return total.hexdigest()


def reason(method: Method, done: Run, root: Path) -> str:
    """One line about a failed run: its error message, or else the last line of its log."""
    lines = [line.strip() for line in _log_lines(method, root) if line.strip()]
    ours = [line.partition('kernelfusion: error: ')[2] for line in lines if 'kernelfusion: error: ' in line]
    if done.status == INCOMPLETE and 'summary.json' in done.files:
        return 'some images failed'
    return f'failed with status {done.status}: {(ours or lines or ["its log is empty"])[-1]}'


def fault(method: Method, path: str, root: Path) -> str:
    """The message in the run's log about an image that it skipped; '' if there is none."""
    for line in _log_lines(method, root):
        if f'{path}:' in line and line.rstrip().endswith(runlog.SKIPPED):
            return line.partition('ERROR: ')[2].rpartition(runlog.SKIPPED)[0].rstrip('. ')
    return ''


def head(command: str) -> dict[str, str]:
    """Provenance of a comparison: command, date, commit, versions, device."""
    here = _environment(torch.cuda.is_available())
    versions = ', '.join(f'{name} {version}' for name, version in here['versions'].items() if version)
    return {'command': command, 'date': here['date'], 'commit': here['commit'] or 'unknown: not a checkout',
            'versions': versions, 'device': device_text(here['device'])}


def device_text(device: Mapping[str, Any]) -> str:
    """A device from :func:`report.environment` in words."""
    threads = f'{device["threads"]} thread{"s" if device["threads"] != 1 else ""}'
    return device['name'] if device['type'] == 'cuda' else f'CPU ({device["name"]}, {threads})'


def _named_paths(value: Any, key: str = '') -> Iterator[Path]:  # noqa: ANN401
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _named_paths(item, str(name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_paths(item, key)
    elif isinstance(value, str) and value and key not in NOT_FILES:
        path = module_here(value) if key == 'import' else Path(os.path.expanduser(value))
        if path is not None and len(value) < 4096 and '\0' not in value and os.path.exists(path):
            yield path


def _file_digest(path: Path) -> bytes:
    total = hashlib.sha256()
    with open(path, 'rb') as stream:
        while chunk := stream.read(CHUNK):
            total.update(chunk)
    return total.digest()


def _put_aside(folder: Path) -> None:
    """Rename an older run's folder, as BasicSR does, so that its files are not taken for those of a new, failed run."""
    if folder.exists():
        folder.rename(f'{folder}_archived_{datetime.now():%Y%m%d_%H%M%S_%f}')


def _start(method: Method, root: Path) -> int:
    """Run the launcher with the method's options and return its exit status."""
    place = (root / method.slug).absolute()
    opt = {**method.opt, 'path': {**method.opt['path'], 'results_root': str(place)}}
    options, output = root / f'{method.slug}.yml', root / f'{method.slug}.log'
    text = yaml.safe_dump(opt, sort_keys=False, allow_unicode=True)
    write_text_atomically(options, text)
    command = [sys.executable, '-m', 'kernelfusion_plugin.test', '-opt', str(options)]
    with open(output, 'wb') as stream:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                              check=False).returncode


def _environment(gpu: bool) -> dict[str, Any]:
    return {'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'), 'code': code_digest(),
            **report.environment(torch.device('cuda' if gpu else 'cpu'))}


def _recorded(record: Path, folder: Path) -> Run | None:
    """The recorded run, if all its files still exist."""
    try:
        known = json.loads(record.read_text(encoding='utf-8'))
        known = Run(**{**known, 'files': tuple(known['files'])}, reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if set(known.files) <= set(_files(folder)) else None


def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()))


def _log_lines(method: Method, root: Path) -> list[str]:
    try:
        return (root / f'{method.slug}.log').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return []
