"""A run of the toolbox that was killed and is started again with the same command goes on where it was.

While a run is not finished its results have a folder ``unfinished``:

    run.json                  the options that decide what comes out, digests of weights and code
    DATA SET/NAME.json        of an image that is done: row, sums of its files, metrics that failed
    DATA SET/NAME.pt          checkpoint of an image under way, see ``checkpoints``
    lock                      held by the process at work (several ranks have theirs in ``ranks/``, see ``sharing``)

BasicSR renames a folder of results that it finds to ``…_archived_TIME`` and begins an empty one. If there is such an
archive of a run of the same options that did not finish, its files are moved back. That may be cut off as well: the
archive is one to be moved back until its last file, ``run.json``, is. If the newest is of other options, a line says
which.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..atomic import sweep, write_text_atomically
from ..checkpoints import Checkpoint, code_digest, decisive, digest, is_locked, locked, read_record, write_record
from ..sharing import FOLDER as RANKS
from ..sharing import clear

FOLDER, RUN, LOCK = 'unfinished', 'run.json', 'lock'
SHOWN = 3  # differences that a line names
PARTS = {'options': '{}', 'weights': 'the file of path.pretrain_network_g', 'code': "this package's code"}
SECTIONS = ('name', 'model_type', 'scale', 'datasets', 'kernelfusion', 'val')  # that decide what comes out


class Unfinished:
    """What a run leaves for the one that goes on with it.

    Args:
        results: the folder of results, which BasicSR has just made.
        opt: BasicSR's options.
    """

    def __init__(self, results: Path, opt: Mapping[str, Any], logger: logging.Logger) -> None:
        self.results, self.folder, self.logger = results, results / FOLDER, logger
        self.decided_by = _decided_by(opt)

    def begin(self, resume: bool) -> None:
        """Mark the run as not finished; to be called once, by rank 0.

        Args:
            resume: go on with an earlier run; False: leave it in its archive.
        """
        run = json.dumps(self.decided_by) + '\n'
        write_text_atomically(self.folder / RUN, run)  # before anything is moved here
        if resume:
            self._adopt()

    def at_work(self) -> AbstractContextManager[None]:
        """To be held while images are done: who starts the same run meanwhile, leaves this one alone."""
        return locked(self.folder / LOCK)

    def _adopt(self) -> None:
        """Move archives of this run back, the oldest first."""
        other = None
        for archive in sorted(self.results.parent.glob(f'{glob.escape(self.results.name)}_archived_*')):
            run, locks = _run(archive), (archive / FOLDER / LOCK, *(archive / RANKS).glob('lock_*'))
            other = None  # only the newest, which BasicSR has just renamed, is worth a line
            if not run or any(map(is_locked, locks)):
                continue
            if run != self.decided_by:
                other = archive, run
                continue
            clear(archive)
            for folder in (archive, *(path for path in archive.rglob('*') if path.is_dir())):
                sweep(folder)
            last = archive / FOLDER / RUN
            files = [path for path in archive.rglob('*') if path.is_file() and path != last]
            for path in (*sorted(files), last):
                target = self.results / path.relative_to(archive)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            shutil.rmtree(archive)
            self.logger.info(f'A run of these options did not finish: {archive.name} is moved back, and gone on with')
        if other:
            self._tell_of_another(*other)

    def _tell_of_another(self, archive: Path, run: Mapping[str, Any]) -> None:
        """Why the run that did not finish is not gone on with."""
        differ = [PARTS[part].format(name) for part in PARTS if part in run
                  for name in _differences(run[part], self.decided_by[part])] or [PARTS['code']]
        more = f' and {len(differ) - SHOWN} more' if len(differ) > SHOWN else ''
        self.logger.info(f'The last run, which did not finish, is left in {archive.name} and not gone on with, as this '
                         f'differs: {", ".join(differ[:SHOWN])}{more}')

    def finished(self, dataset: str, name: str, key: str) -> tuple[dict[str, Any], list[str]] | None:
        """The row of an image that is done, and the lines on metrics that have no value there; None if its files are
        not sound, or the fingerprint is another.
        """
        record = read_record(self._record(dataset, name), key)
        return None if record is None else (record['row'], record.get('faults', []))

    def finish(self, dataset: str, name: str, key: str, files: Iterable[Path], row: Mapping[str, Any],
               faults: Iterable[str] = ()) -> None:
        """An image is done."""
        write_record(self._record(dataset, name), key, list(files), row=dict(row), faults=list(faults))
        self._checkpoint(dataset, name).unlink(missing_ok=True)

    def checkpoint(self, dataset: str, name: str, key: str, every: float) -> Checkpoint:
        """That of an image under way."""
        return Checkpoint(self._checkpoint(dataset, name), key, every)

    def drop_others(self, dataset: str, names: Iterable[str]) -> None:
        """Remove results of images that the data set has no more."""
        names = set(names)
        for checkpoint in (self.folder / dataset).glob('*.pt'):
            if checkpoint.stem not in names:
                checkpoint.unlink(missing_ok=True)
        for record in set((self.folder / dataset).glob('*.json')) - {self._record(dataset, name) for name in names}:
            try:
                files = json.loads(record.read_text(encoding='utf-8')).get('files', {})
            except FileNotFoundError:  # another rank was faster
                continue
            for path in (*(record.parent / name for name in files), record):
                path.unlink(missing_ok=True)

    def end(self) -> None:
        """The run is finished: nothing is left to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, dataset: str, name: str) -> Path:
        return self.folder / dataset / f'{name}.json'

    def _checkpoint(self, dataset: str, name: str) -> Path:
        return self.folder / dataset / f'{name}.pt'


def _decided_by(opt: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what comes out: the options, the weights that they name, the package's code. Plain values."""
    about = {key: value for key, value in opt.items() if key in SECTIONS or key.startswith('network_')}
    about['kernelfusion'] = decisive(opt.get('kernelfusion') or {})
    weights = opt['path'].get('pretrain_network_g')
    found = {'options': about, 'weights': digest(Path(weights)) if weights else None, 'code': code_digest()}
    return json.loads(json.dumps(found, default=str))


def _differences(old: Any, new: Any, name: str = '') -> list[str]:
    """Names of the options, or of whole sections, that differ; of other values '' where they do."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if old == new else [name]
    keys = {key: f'{name}.{key}'.lstrip('.') for key in sorted({*old, *new})}
    return [found for key, place in keys.items() for found in _differences(old.get(key), new.get(key), place)]


def _run(folder: Path) -> dict[str, Any]:
    """``run.json`` of a run that did not finish; {} without one."""
    try:
        run = json.loads((folder / FOLDER / RUN).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}
