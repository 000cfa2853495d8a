"""Lets a BasicSR run that was stopped or killed resume when the same command is repeated.

Until a run is finished, its results contain a folder ``unfinished``:

    run.json                  options that determine the results, digests of weights and code
    DATA SET/NAME.json        of a finished image: row, checksums of its files, failed metrics
    DATA SET/NAME.pt          checkpoint of the current image, see ``checkpoints``
    lock                      held by the running process (several ranks have theirs in ``ranks/``, see ``sharing``)

BasicSR renames an existing results folder to ``…_archived_TIME`` and starts an empty one. Files from such archives of
unfinished runs with the same options are moved back. This may be interrupted, too: an archive counts as unfinished
until its last file, ``run.json``, has been moved. If the newest one has other options, a log line says which.
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
from ..checkpoints import (
    Checkpoint,
    code_digest,
    decisive,
    digest,
    is_locked,
    locked,
    read_json,
    read_record,
    write_record,
)
from ..sharing import FOLDER as RANKS
from ..sharing import clear

FOLDER, RUN, LOCK = 'unfinished', 'run.json', 'lock'
SHOWN = 3  # number of differences that the log line lists
PARTS = {'options': '{}', 'weights': 'the file of path.pretrain_network_g', 'code': "this package's code"}
SECTIONS = ('name', 'model_type', 'scale', 'datasets', 'kernelfusion', 'val')  # that determine the results


class Unfinished:
    """State that lets a later run resume this one.

    Args:
        results: the results folder, just created by BasicSR.
        opt: BasicSR's options.
    """

    def __init__(self, results: Path, opt: Mapping[str, Any], logger: logging.Logger) -> None:
        self.results, self.folder, self.logger = results, results / FOLDER, logger
        self.decided_by = _decided_by(opt)

    def begin(self, resume: bool) -> None:
        """Mark the run as unfinished. Call once, on rank 0.

        Args:
            resume: take over the files of an earlier unfinished run; False: leave them in their archive.
        """
        run = json.dumps(self.decided_by) + '\n'
        write_text_atomically(self.folder / RUN, run)  # before any file is moved here
        if resume:
            self._adopt()

    def at_work(self) -> AbstractContextManager[None]:
        """Lock to hold while restoring, so that another start of the same run does not take over its files."""
        return locked(self.folder / LOCK)

    def _adopt(self) -> None:
        """Move back the archives of this run, oldest first."""
        other = None
        for archive in sorted(self.results.parent.glob(f'{glob.escape(self.results.name)}_archived_*')):
            run, locks = read_json(archive / FOLDER / RUN), (archive / FOLDER / LOCK, *(archive / RANKS).glob('lock_*'))
            other = None  # report only the newest, which BasicSR has just renamed
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
            self.logger.info(f'Resuming an unfinished run with these options: {archive.name} is moved back')
        if other:
            self._tell_of_another(*other)

    def _tell_of_another(self, archive: Path, run: Mapping[str, Any]) -> None:
        """Log why the last unfinished run is not resumed."""
        differ = [PARTS[part].format(name) for part in PARTS if part in run
                  for name in _differences(run[part], self.decided_by[part])] or [PARTS['code']]
        more = f' and {len(differ) - SHOWN} more' if len(differ) > SHOWN else ''
        self.logger.info(f'The last run is unfinished, but not resumed, and stays in {archive.name}. Differences: '
                         f'{", ".join(differ[:SHOWN])}{more}')

    def finished(self, dataset: str, name: str, key: str) -> tuple[dict[str, Any], list[str]] | None:
        """The row of a finished image and the messages of its failed metrics.

        None if it is not finished, a file has changed, or the fingerprint differs.
        """
        record = read_record(self._record(dataset, name), key)
        return None if record is None else (record['row'], record.get('faults', []))

    def finish(self, dataset: str, name: str, key: str, files: Iterable[Path], row: Mapping[str, Any],
               faults: Iterable[str] = ()) -> None:
        """Record an image as done, and delete its checkpoint."""
        write_record(self._record(dataset, name), key, list(files), row=dict(row), faults=list(faults))
        self._checkpoint(dataset, name).unlink(missing_ok=True)

    def checkpoint(self, dataset: str, name: str, key: str, every: float) -> Checkpoint:
        """The checkpoint of an image."""
        return Checkpoint(self._checkpoint(dataset, name), key, every)

    def drop_others(self, dataset: str, names: Iterable[str]) -> None:
        """Remove checkpoints and results of images that are no longer in the data set."""
        names = set(names)
        folder = self.folder / dataset
        for checkpoint in set(folder.glob('*.pt')) - {self._checkpoint(dataset, name) for name in names}:
            checkpoint.unlink(missing_ok=True)
        for record in set(folder.glob('*.json')) - {self._record(dataset, name) for name in names}:
            files = read_json(record).get('files', {})
            for path in (*(record.parent / name for name in files), record):
                path.unlink(missing_ok=True)  # as another rank may have removed it

    def end(self) -> None:
        """Mark the run as finished by deleting the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, dataset: str, name: str) -> Path:
        return self.folder / dataset / f'{name}.json'

    def _checkpoint(self, dataset: str, name: str) -> Path:
        return self.folder / dataset / f'{name}.pt'


def _decided_by(opt: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the results, as plain values: options, digest of the weights, digest of the package's code."""
    about = {key: value for key, value in opt.items() if key in SECTIONS or key.startswith('network_')}
    about['kernelfusion'] = decisive(opt.get('kernelfusion') or {})
    weights = opt['path'].get('pretrain_network_g')
    found = {'options': about, 'weights': digest(Path(weights)) if weights else None, 'code': code_digest()}
    return json.loads(json.dumps(found, default=str))


def _differences(old: Any, new: Any, name: str = '') -> list[str]:
    """Names of options or whole sections that differ; [''] for plain values that differ."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if old == new else [name]
    keys = {key: f'{name}.{key}'.lstrip('.') for key in sorted({*old, *new})}
    return [found for key, place in keys.items() for found in _differences(old.get(key), new.get(key), place)]
