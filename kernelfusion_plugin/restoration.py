"""Restore one picture from file to results: resumes from a checkpoint, keeps finished results, shows a live view."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import pictures, report
from .advice import kernel_warning, with_blur_warning
from .atomic import sweep
from .checkpoints import (
    EVERY,
    FILE,
    Checkpoint,
    StopRequest,
    digest,
    drain,
    fingerprint,
    locked,
    read_json,
    read_record,
    write_record,
)
from .core.config import KernelFusionConfig
from .core.inputs import inspected
from .core.restore import Progress, Result, repeatable, restore_steps
from .files import BadPicture, Picture, check_size, printable, read_picture, write_picture
from .live import FRAMES, LIVE, LOCK, STATUS, LiveView
from .progress import ProgressLog

log = logging.getLogger(__name__)

MOST_SHRUNK = 16
PLOT = 'plot.png'  # in a run folder that is kept
RUN = (FILE, LOCK, STATUS, LIVE, FRAMES, PLOT)  # files a run folder may contain


@dataclass(frozen=True)
class Settings:
    """Settings shared by all pictures of a command.

    Attributes:
        config: the core's configuration.
        device: device to compute on.
        kernel: the known kernel (K, K); None: blind.
        save_run: keep the run folder, with a plot of the losses and frames for an animation.
        fresh: start from scratch, ignoring earlier results and checkpoints.
        shrink: the picture is first reduced by this factor, so that a wide blur fits into the kernel's grid.
        every: seconds between two checkpoints.
    """

    config: KernelFusionConfig
    device: torch.device
    kernel: Tensor | None = None
    save_run: bool = False
    fresh: bool = False
    shrink: int = 1
    every: float = EVERY


@dataclass(frozen=True)
class Restoration:
    """The restoration of one picture.

    Attributes:
        path: the LR picture.
        out: the restored picture; other results go to the same folder, named after its stem.
        settings: see :class:`Settings`.
    """

    path: Path
    out: Path
    settings: Settings

    @property
    def name(self) -> str:
        """Stem of the input file; with the seed it fixes the random numbers, whatever the folder or other files."""
        return self.path.stem

    @property
    def stem(self) -> str:
        """Common prefix of the names of all results."""
        return self.out.stem.removesuffix(f'_x{self.settings.config.scale}')

    @property
    def folder(self) -> Path:
        """The run folder: checkpoint, lock and live view while the run is in progress."""
        return self.out.parent / f'{self.stem}_run'

    @property
    def record(self) -> Path:
        """The JSON record that marks a finished result."""
        return self.out.parent / f'{self.stem}_restored.json'

    @property
    def results(self) -> list[Path]:
        """All files that may be written, except the record."""
        names = ('kernel.npy', 'kernel.png', 'sheet.png')
        return [self.out, *(self.out.parent / f'{self.stem}_{name}' for name in names), *self.region_kernels]

    @property
    def region_kernels(self) -> list[Path]:
        """Files that are written only if there are several regions."""
        return [self.out.parent / f'{self.stem}_kernels{ending}' for ending in ('.npy', '.png')]

    @cached_property
    def key(self) -> str:
        """Fingerprint of the input and the settings, which determine the result."""
        s = self.settings
        return fingerprint(digest(self.path), s.config, self.name, s.device, s.kernel, shrink=s.shrink)

    def read(self) -> Picture:
        """The picture, reduced by ``shrink``.

        Raises:
            BadPicture, ValueError: it cannot be read, or cannot be restored with these settings (e.g. too small).
        """
        whole = read_picture(self.path)
        picture = whole.smaller(self.settings.shrink)
        try:
            inspected(picture.y, self.settings.config, self.settings.kernel)
        except ValueError as error:
            if picture is whole:
                raise
            height, width = whole.y.shape[-2:]
            before = f'; it was {width} x {height} before --shrink {self.settings.shrink}'
            raise BadPicture(f'{error}{before}') from error
        check_size(self.out, *(n * self.settings.config.scale for n in picture.y.shape[-2:]))
        return picture

    def finished(self) -> bool:
        """Whether the results exist, are intact, and were made from this picture with these settings."""
        if self.settings.fresh or not (self.record.is_file() and self.path.is_file()):
            return False
        record = read_record(self.record, self.key)
        return record is not None and self.out.name in record['files']  # else it was saved in another format

    def check_place(self) -> None:
        """Make sure that only our own files are overwritten or removed, even with ``fresh``.

        Ours are the files that the record lists, even for another picture or version. If a lock exists, all are: the
        run may have been killed after writing a result but before its record.

        Raises:
            ValueError: a file of unknown origin has the name of a result.
        """
        if (self.folder / LOCK).exists():
            return
        known = {self.record.name, *listed} if (listed := _listed(self.record)) else set()
        places = [*self.results, self.record, *(() if _is_run(self.folder) else (self.folder,))]
        other = next((path for path in places if path.name not in known and os.path.lexists(path)), None)
        if other is not None:
            raise ValueError(f'{printable(str(other))} would be overwritten, but is not a result of this command: '
                             'move it away or choose another -o')

    def checkpoint(self) -> Checkpoint:
        """The checkpoint in the run folder."""
        return Checkpoint(self.folder / FILE, self.key, self.settings.every)

    def gone_on_with(self) -> bool:
        """Whether there is a checkpoint from which :meth:`run` resumes."""
        return not self.settings.fresh and self.checkpoint().load() is not None

    def run(self, title: str, stop: StopRequest) -> Result | None:
        """Restore the picture and write the results. Returns None if another process has finished it meanwhile.

        Raises:
            BadPicture, ValueError: the picture cannot be read or is too small, or a file not ours would be overwritten.
            OSError: a result cannot be written. The checkpoint is kept, and the next call resumes from it.
            Stopped: a stop was requested by Ctrl-C or SIGTERM; the checkpoint is kept, too.
        """
        self.check_place()
        picture = self.read()
        if picture.pages > 1:
            log.warning(f'{title}: has {picture.pages} pages, only the first is restored')
        known = self.folder.exists()
        with locked(self.folder / LOCK):
            if self.finished():
                self._leave()
                return None
            self._clear()
            bicubic = report.bicubic_picture(picture.y, self.settings.config.scale)
            live = LiveView(self.folder, printable(self.path.name), bicubic, self.settings.save_run)
            try:
                result = self._compute(picture.y, title, live, stop)
            except ValueError:
                if not known and not (self.folder / FILE).exists():  # nothing to resume from
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
            self._write(result, picture)
            if self.settings.kernel is None and (
                    warning := kernel_warning(picture.y, result.kernel, '--kernel-size', self._shrink)):
                log.warning(f'{title}: {warning}')
            if self.settings.save_run:
                pictures.save_plot(self.folder / PLOT, result.trace, printable(self.path.name))
                live.say(state='finished', result=self.out.name)
                for name in (FILE, LOCK):
                    (self.folder / name).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        return result

    @property
    def _shrink(self) -> str:
        """The option that halves the picture once more; '' if that exceeds MOST_SHRUNK."""
        factor = 2 * self.settings.shrink
        return f'--shrink {factor}' if factor <= MOST_SHRUNK else ''

    def _leave(self) -> None:
        """Remove the lock, and the folder if it is then empty (another process may have saved its run there)."""
        (self.folder / LOCK).unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove temporary files left by killed processes and, with ``fresh``, the checkpoint."""
        for folder in (self.folder, self.folder / FRAMES):
            sweep(folder)
        for path in (*self.results, self.record):
            sweep(path.parent, path.name)
        if self.settings.fresh:
            (self.folder / FILE).unlink(missing_ok=True)

    def _compute(self, y: Tensor, title: str, live: LiveView, stop: StopRequest) -> Result:
        s, checkpoint = self.settings, self.checkpoint()
        snapshot = checkpoint.load()
        if snapshot is not None:
            log.info(f'{title}: resumes from its checkpoint')
        steps = restore_steps(y.to(s.device), s.config, name=self.name, kernel=s.kernel, resume=snapshot)
        if snapshot is None:
            steps = self._anew(steps)
            if s.kernel is None:
                steps = with_blur_warning(steps, y.to(s.device), s.config,
                                          lambda warning: log.warning(f'{title}: {warning}'), self._shrink)
        with repeatable(s.device), contextlib.closing(ProgressLog(log, title)) as show:
            return drain(steps, checkpoint, (show, live), stop)

    def _anew(self, steps: Generator[Progress, None, Result]) -> Generator[Progress, None, Result]:
        """Pass on ``steps``; delete an older saved run after the first, when the input can no longer be rejected."""
        first = next(steps)
        shutil.rmtree(self.folder / FRAMES, ignore_errors=True)
        (self.folder / PLOT).unlink(missing_ok=True)
        yield first
        return (yield from steps)

    def _write(self, result: Result, like: Picture) -> None:
        """Write picture, kernel and sheet, then the record, without which they do not count as finished.

        An older record stays until then: its checksums no longer match, but it tells which files are ours.
        """
        scale = self.settings.config.scale
        for old in self.region_kernels:
            old.unlink(missing_ok=True)
        write_picture(self.out, result.sr, like)
        kernel, kernels = (None if k is None else k.numpy() for k in (result.kernel, result.kernels))
        report.save_kernel(self.out.parent, self.stem, kernel)
        if kernels is not None:
            report.save_region_kernels(self.out.parent, self.stem, kernels)
        bicubic, sr = report.bicubic_picture(like.y, scale), report.to_picture(result.sr)
        title = (f'{printable(self.path.name)}: {like.y.shape[-1]} x {like.y.shape[-2]}, x{scale}, '
                 f'{result.config.solver}, {result.config.preset}')
        pictures.save_sheet(self.out.parent / f'{self.stem}_sheet.png',
                            pictures.sheet_panels(bicubic, sr, None, kernel, None, {}, kernels=kernels), title)
        written = [path for path in self.results if kernels is not None or path not in self.region_kernels]
        names = {path.name for path in written}
        earlier = [name for name in _listed(self.record) if name not in names and (self.out.parent / name).exists()]
        grid = [1, 1] if kernels is None else list(kernels.shape[:2])
        write_record(self.record, self.key, written, picture=self.path.name, seconds=result.seconds, regions=grid,
                     surprise=result.surprise, shrink=self.settings.shrink, config=result.config.to_dict(),
                     earlier=earlier, **report.environment(self.settings.device))


class Origin(NamedTuple):
    """The :class:`Settings` values with which a result was made."""

    scale: int
    shrink: int


def came_about(record: Path, file: Path) -> Origin | None:
    """How ``file`` was made, if ``record`` lists it and it is unchanged; else None."""
    about = read_json(record)
    try:
        origin = Origin(about['config']['scale'], about.get('shrink', 1))
        return origin if about['files'][file.name] == digest(file) else None
    except (OSError, KeyError, TypeError):
        return None


def _listed(record: Path) -> list[str]:
    """Names of the files that a record lists, including earlier results in the same folder (e.g. at another scale).

    [] if it is not one of our records.
    """
    about = read_json(record)
    try:
        return [*about['files'], *about.get('earlier', ())]
    except (KeyError, TypeError):
        return []


def _is_run(folder: Path) -> bool:
    """Whether ``folder`` is empty or looks like a run folder, perhaps an incomplete one."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return not names or any(name in RUN or name.endswith('.tmp') for name in names)
